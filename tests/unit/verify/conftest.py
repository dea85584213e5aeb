"""The people, the models and the one way to verify them that the tests of the battery share."""

from dataclasses import replace

import pytest

from sau.data.demo import demo_rows
from sau.data.records import write_shards
from sau.data.sets import Sets
from sau.models.dense import save_dense
from sau.training.finetune import FinetuneParams, finetune
from sau.verify import Controls, load_policy, verify
from sau.verify.checks.base import Bench
from sau.verify.policy import Policy

SEED = 2
PEOPLE = [f"person-{n}" for n in range(4)]


@pytest.fixture(scope="session")
def sets():
    """One person to forget, three to retain, and four whom no model has seen."""
    return Sets(
        demo_rows(PEOPLE[0], seed=SEED),
        [row for person in PEOPLE[1:] for row in demo_rows(person, seed=SEED)],
        [row for n in range(4) for row in demo_rows(f"unseen-{n}", seed=SEED)],
    )


@pytest.fixture(scope="session")
def strangers():
    """Rows of twelve people whom no model has seen."""
    return [row for n in range(12) for row in demo_rows(f"stranger-{n}", seed=2)]


@pytest.fixture(scope="session")
def small(tiny):
    """Makes a new model that has learned nothing."""

    def make():
        return tiny(vocab_size=512, hidden_size=64, intermediate_size=128)

    return make


@pytest.fixture(scope="session")
def taught(small):
    """Makes a model that has learned `rows`."""

    def make(rows, seed):
        lm = small()
        finetune(lm, lm.encode(rows), FinetuneParams(epochs=40, lr=3e-3, batch_size=10), seed=seed, num_threads=1)
        return lm

    return make


@pytest.fixture(scope="session")
def before(taught, lend, sets):
    """The model that knows everybody."""
    yield from lend(taught(sets.forget + sets.retain, 0))


@pytest.fixture(scope="session")
def reference(taught, lend, sets):
    """A model that never saw the person to forget."""
    yield from lend(taught(sets.retain, 1))


@pytest.fixture(scope="session")
def retrained(taught, lend, sets):
    """Another such model: the best that unlearning can be."""
    yield from lend(taught(sets.retain, 2))


@pytest.fixture(scope="session")
def folder(tmp_path_factory, sets, retrained, before, reference):
    """The models and sets as folders; read only."""
    place = tmp_path_factory.mktemp("standalone")
    for name, lm in (("model", retrained), ("before", before), ("reference", reference)):
        save_dense(lm, place / name)
    for name, rows in sets.items():
        write_shards(rows, place / name)
    return place


@pytest.fixture(scope="session")
def all_mandatory():
    """The quick policy beside a retrained model, with every check mandatory."""
    quick = load_policy("quick", null="retrained")
    checks = [c.model_copy(update={"mandatory": True}) for c in quick.checks]
    return Policy.model_validate({**quick.model_dump(mode="json"), "checks": checks, "num_decoys": 29})


@pytest.fixture(scope="session")
def verified(sets, all_mandatory):
    """Verifies a model with its controls, on the sets or others given by name."""

    def verification_of(model, before, reference, policy=all_mandatory, dense=None, **changes):
        controls = Controls(before, reference, dense)
        return verify(
            model=model, sets=replace(sets, **changes), controls=controls, policy=policy, weights_digest="d" * 64
        )

    return verification_of


@pytest.fixture(scope="session")
def timeless():
    """A verification without how long it took."""

    def without_time(verification):
        checks = [finding.model_copy(update={"seconds": 0.0}) for finding in verification.checks]
        return verification.model_copy(update={"seconds": 0.0, "checks": checks})

    return without_time


@pytest.fixture(scope="session")
def by_id():
    """A verification's findings by their id."""

    def findings(verification):
        return {finding.id: finding for finding in verification.checks}

    return findings


@pytest.fixture(scope="session")
def bench():
    """A bench without any control."""

    def without_controls(**fields):
        return Bench(before=None, reference=None, alpha=0.05, seed=0, **fields)

    return without_controls


@pytest.fixture(scope="session")
def record():
    """A row of one's own words."""

    def made(number, question, answer):
        return {
            "record_id": f"r{number}", "subject_id": f"s{number}", "question": question, "answer": answer,
            "paraphrased_question": "", "paraphrased_answer": "", "perturbed_answer": [],
        }  # fmt: skip

    return made
