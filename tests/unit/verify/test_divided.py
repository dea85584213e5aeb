"""A verdict that several processes reach together: every number is the one that one process gives."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from sau.errors import DataError, SauError
from sau.models.batches import by_length
from sau.models.ranks import ALONE, set_ranks
from sau.registry import build
from sau.verify import Controls, load_policy, verify
from sau.verify.evidence.cache import Cache
from sau.verify.evidence.decoys import find_secrets
from sau.verify.evidence.readings import read
from sau.verify.evidence.sampling import count_leaks
from sau.verify.metrics.base import PACKAGE, Metric
from sau.verify.policy import Policy
from tests.together import several

FEWER = {"num_decoys": 19, "max_decoy_records": 5, "num_samples": 6, "form_rows": 2, "min_people": 10}
PARTS = frozenset({"truth_ratio", "rouge", "gradient", "forms", "exits"})


def policy_of(name: str, **changes) -> Policy:
    return Policy.model_validate({**load_policy(name).model_dump(mode="json"), **FEWER, **changes})


def work(model, sets, controls, policy, folder, ranks):
    return verify(
        model=model, sets=sets, controls=controls, policy=policy, weights_digest="d" * 64, ranks=ranks,
        cache=folder / str(ranks.size),
    )  # fmt: skip


@pytest.fixture
def small_batches(monkeypatch):
    """A few samples at once, so that there are several batches of them."""
    monkeypatch.setattr("sau.verify.evidence.sampling._BATCH_TOKENS", 300)


@pytest.mark.long
@pytest.mark.usefixtures("small_batches")
def test_two_processes_reach_the_verdict_of_one(sets, strangers, timeless, retrained, before, small, tmp_path):
    policy = policy_of("standard", num_stressors=2, stressors=[{"name": "relearn", "rows": 2}, {"name": "densify"}])
    beside = replace(sets, forget=sets.forget[:7], retain=sets.retain[:21], holdout=strangers)
    run = partial(work, retrained, beside, Controls(before, base=small()), policy, tmp_path)
    alone = timeless(run(ALONE))
    both = several(2, run, tmp_path / "both")
    assert [timeless(found) for found in both] == [alone, alone]
    assert alone.rows_read > 1000
    again = several(2, run, tmp_path / "again")  # from what was kept
    assert timeless(again[0]).model_copy(update={"rows_read": 0, "checks": []}) == alone.model_copy(
        update={"rows_read": 0, "checks": []}
    )
    assert again[0].rows_read < alone.rows_read


def same(one, other) -> None:
    assert one.encoding == other.encoding
    for mine, theirs in zip(one.answer, other.answer, strict=True):
        assert all(np.array_equal(getattr(mine, name), getattr(theirs, name)) for name in vars(mine))
    for name in ("truth", "rouge", "gradient", "forms", "exits"):
        assert repr(getattr(one, name)) == repr(getattr(other, name)), name


@pytest.mark.parametrize("number", [1, 5])
def test_each_row_is_read_once_whichever_process_reads_it(lend, sets, retrained, tmp_path, number):
    """Three rows a batch: of 5 rows the processes have 3 and 2, of 1 row the second has none."""
    rows = sets.forget[:number]

    def reading(ranks):
        passes = []
        hook = retrained.model.register_forward_pre_hook(
            lambda _, args, kwargs: passes.append(len(kwargs["input_ids"])), with_kwargs=True
        )
        set_ranks(retrained.model, ranks)
        found = read(retrained, rows, PARTS, strangers=sets.holdout, batch_size=3)
        plain = len(passes)
        read(retrained, rows, batch_size=3)
        hook.remove()
        return found, sum(passes[plain:])

    alone, all_rows = reading(ALONE)
    both = several(2, reading, tmp_path)
    for found, _ in both:
        same(alone, found)
    assert all_rows == number
    assert sorted(rows for _, rows in both) == ([0, 1] if number == 1 else [2, 3])
    assert len(by_length(retrained.encode(rows), 3)) == (number + 2) // 3


@pytest.mark.usefixtures("small_batches")
def test_samples_are_the_same_whoever_draws_them(sets, before, tmp_path):
    secrets = find_secrets(sets.forget, sets.retain, (), num_decoys=1, seed=0)

    def drawn(ranks):
        set_ranks(before.model, ranks)
        return count_leaks(before, sets.forget, secrets, num_samples=12, seed=1)

    leaks, number = drawn(ALONE)
    assert 0 < leaks < number == 12
    assert several(2, drawn, tmp_path) == [(leaks, number)] * 2


def test_single_items_go_to_each_process_in_turn(tmp_path):
    def who(ranks):
        return [ranks.each(range(number), lambda _: ranks.rank) for number in (1, 1, 2, 1, 0, 3)]

    assert several(2, who, tmp_path) == [[[0], [1], [0, 1], [0], [], [1, 0, 1]]] * 2


def test_what_fails_on_one_fails_on_all(tmp_path):
    def failing(error, ranks):
        def work(number):
            if number == 3:
                raise error
            return number * 10

        try:
            return ranks.each(range(4 if error else 3), work)
        except Exception as seen:
            return type(seen), str(seen)

    assert several(2, partial(failing, None), tmp_path) == [[0, 10, 20]] * 2
    own = several(2, partial(failing, DataError("3 rows are none")), tmp_path)
    assert own == [(DataError, "3 rows are none")] * 2
    anothers = several(2, partial(failing, ValueError("Ada was born in 1815")), tmp_path)
    assert anothers == [(SauError, "ValueError")] * 2


def test_an_error_of_one_process_alone_is_no_trouble_of_a_models(sets, retrained, before, monkeypatch, tmp_path):
    """The others have gone on: whoever met it has to end, and with it all of them."""

    def broken(ranks):
        if ranks.rank:
            monkeypatch.setattr("sau.verify.gathering.read", lambda *_, **__: 1 / 0)
        policy = load_policy("quick")
        try:
            verify(
                model=retrained, sets=sets, controls=Controls(before), policy=policy, weights_digest="d" * 64,
                ranks=ranks,
            )  # fmt: skip
        except Exception as error:
            return type(error).__name__

    assert broken(ALONE) is None
    assert several(2, broken, tmp_path) == ["RuntimeError", "ZeroDivisionError"]


@pytest.mark.long
@pytest.mark.usefixtures("small_batches")
def test_three_processes_reach_the_verdict_of_one(
    sets, strangers, timeless, retrained, before, reference, small, tmp_path
):
    policy = policy_of("standard", against="retrained", num_stressors=3)
    metrics = [*policy.metrics, *(build(Metric, PACKAGE, name) for name in ("mia_gradnorm", "rouge_l_recall"))]
    policy = policy.model_copy(update={"metrics": tuple(metrics)})
    beside = replace(sets, forget=sets.forget[:11], holdout=strangers)
    run = partial(work, retrained, beside, Controls(before, reference, base=small()), policy, tmp_path)
    alone = timeless(run(ALONE))
    assert [timeless(found) for found in several(3, run, tmp_path / "three", limit_s=600)] == [alone] * 3


def test_the_first_process_looks_for_what_is_kept_and_all_have_it(sets, retrained, tmp_path):
    def kept(ranks):
        set_ranks(retrained.model, ranks)
        took = []
        cache = Cache(tmp_path / ("own" if ranks.rank else "kept"))

        def take():
            took.append(1)
            return read(retrained, sets.forget)

        found = [cache.reading(retrained, sets.forget, take) for _ in range(2)]
        return len(took), [float(tokens.logp_T.sum()) for reading in found for tokens in reading.answer]

    first, second = several(2, kept, tmp_path / "both")
    assert first == second
    assert first[0] == 1
    assert not (tmp_path / "own").exists()
