"""The battery end to end on small models: verdicts, controls, sabotage, decoys, stressors."""

import copy
import json
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flows import cli
from sau.data import write_shards
from sau.data.demo import demo_rows
from sau.errors import CheckpointError, ConfigError, DataError, DivergedError
from sau.mask import apply_mask, check_mask
from sau.models.dense import save_dense
from sau.models.language_model import LanguageModel
from sau.models.layers import prunable
from sau.models.sources import ModelParams, TinyParams, base_model
from sau.registry import discover
from sau.training.finetune import FinetuneParams, finetune
from sau.verify import load_policy, trial, verdict, verify, verify_each
from sau.verify.checks import base as check
from sau.verify.checks.base import Bench, Check, Evidence, Measure, NoPowerError
from sau.verify.checks.decoy_rank import DecoyRankCheck, p_if_true, place, pooled_p
from sau.verify.checks.exposed_records import ExposedRecordsCheck
from sau.verify.checks.membership import MembershipCheck
from sau.verify.checks.residual_knowledge import ResidualKnowledgeCheck
from sau.verify.checks.sampling_leak import SamplingLeakCheck
from sau.verify.evidence.blind import blind_baseline, word_features
from sau.verify.evidence.decoys import find_secrets
from sau.verify.evidence.readings import Reading, TokenScores, mean_logps, sum_logps
from sau.verify.evidence.sampling import count_leaks, holds, probes
from sau.verify.policy import Policy
from sau.verify.record import Finding
from sau.verify.report.answers import answers
from sau.verify.standalone import verify_paths
from sau.verify.stressors.base import PACKAGE as STRESSORS
from sau.verify.stressors.base import Stressor, Surroundings
from sau.verify.stressors.densify import Densify
from sau.verify.stressors.prune_further import PruneFurther, pruned_further
from sau.verify.stressors.relearn import Relearn
from sau.verify.stressors.round_weights import RoundWeights, rounded

SEED = 2
PEOPLE = [f"person-{n}" for n in range(4)]
FORGET = demo_rows(PEOPLE[0], seed=SEED)
RETAIN = [row for person in PEOPLE[1:] for row in demo_rows(person, seed=SEED)]
HOLDOUT = [row for n in range(4) for row in demo_rows(f"unseen-{n}", seed=SEED)]
QUICK = load_policy("quick")
ALL_MANDATORY = Policy.model_validate(
    {
        **QUICK.model_dump(mode="json"),
        "checks": [c.model_copy(update={"mandatory": True}) for c in QUICK.checks],
        "num_decoys": 29,
    }
)


def small() -> LanguageModel:
    shape = TinyParams(vocab_size=512, hidden_size=64, intermediate_size=128, num_layers=2, num_heads=2)
    return base_model(ModelParams(tiny=shape), seed=0)


def trained(rows, seed) -> LanguageModel:
    lm = small()
    finetune(lm, lm.encode(rows), FinetuneParams(epochs=40, lr=3e-3, batch_size=10), seed=seed, num_threads=1)
    return lm


@pytest.fixture(scope="module")
def before() -> LanguageModel:
    return trained(FORGET + RETAIN, 0)


@pytest.fixture(scope="module")
def reference() -> LanguageModel:
    return trained(RETAIN, 1)


@pytest.fixture(scope="module")
def retrained() -> LanguageModel:
    return trained(RETAIN, 2)


def run(model, before, reference, policy=ALL_MANDATORY, dense=None, **changes):
    sets = {"forget": FORGET, "retain": RETAIN, "holdout": HOLDOUT, **changes}
    return verify(
        model=model, before=before, reference=reference, dense=dense, policy=policy, model_digest="d" * 64, **sets
    )


def timeless(verification):
    """The same without how long it took."""
    checks = [finding.model_copy(update={"seconds": 0.0}) for finding in verification.checks]
    return verification.model_copy(update={"seconds": 0.0, "checks": checks})


def by_id(verification) -> dict[str, Finding]:
    return {finding.id: finding for finding in verification.checks}


def broken(lm: LanguageModel, change) -> LanguageModel:
    """A copy with `change` done to every weight."""
    damaged = replace(lm, model=copy.deepcopy(lm.model))
    with torch.no_grad():
        for weight in damaged.model.parameters():
            change(weight)
    return damaged


# -- verdicts -----------------------------------------------------------------------------------


def test_the_retrained_model_passes(retrained, before, reference):
    result = run(retrained, before, reference)
    assert result.verdict == "PASS", result.reasons
    for finding in result.checks:
        assert finding.verdict == "PASS"
        if finding.id != "retain_utility":
            assert finding.margin[1] < finding.before  # the positive control lies beyond the margin


def test_several_candidates_have_the_verdicts_they_have_alone(retrained, before, reference):
    read = []

    def opened_once(name, lm):
        return lambda: read.append(name) or lm

    together = verify_each(
        candidates=[(retrained, "a" * 64), (before, "b" * 64)],
        forget=FORGET,
        retain=RETAIN,
        holdout=HOLDOUT,
        before=opened_once("before", before),
        reference=opened_once("reference", reference),
        policy=ALL_MANDATORY,
    )
    alone = (
        run(retrained, before, reference).model_copy(update={"model_digest": "a" * 64}),
        run(before, before, reference).model_copy(update={"model_digest": "b" * 64}),
    )
    assert [timeless(v) for v in together] == [timeless(v) for v in alone]
    assert read == ["before", "reference"]


def test_the_untouched_model_fails_every_check_of_forgetting(before, reference):
    result = run(before, before, reference)
    assert result.verdict == "FAIL"
    verdicts = {i: f.verdict for i, f in by_id(result).items()}
    assert verdicts.pop("retain_utility") == "PASS"
    assert set(verdicts.values()) == {"FAIL"}


def test_a_destroyed_model_fails_on_utility(before, reference):
    result = run(small(), before, reference)
    assert result.verdict == "FAIL"
    assert by_id(result)["retain_utility"].verdict == "FAIL"


def test_without_a_reference_nothing_passes(retrained, before):
    result = run(retrained, before, None)
    assert result.verdict == "INCONCLUSIVE"
    assert "not given" in by_id(result)["membership/mia_loss"].reason
    assert by_id(result)["decoy_rank"].verdict == "INCONCLUSIVE"


def test_without_the_model_before_nothing_passes(retrained, reference):
    assert run(retrained, None, reference).verdict == "INCONCLUSIVE"


def test_a_leak_is_seen_without_a_reference(before):
    result = run(before, before, None)
    assert result.verdict == "FAIL"
    assert by_id(result)["decoy_rank"].verdict == "FAIL"


def test_models_may_be_given_as_functions_and_are_opened_once(retrained, before, reference):
    opened = []

    def opener(name, lm):
        return lambda: opened.append(name) or lm

    result = run(opener("u", retrained), opener("b", before), opener("r", reference))
    assert opened == ["b", "r", "u"]
    assert timeless(result) == timeless(run(retrained, before, reference))


def test_the_record_holds_numbers_and_no_text(retrained, before, reference):
    record = json.dumps(run(retrained, before, reference).to_json(), allow_nan=False)
    secrets = find_secrets(FORGET, RETAIN, HOLDOUT, num_decoys=20, seed=0)
    for row in FORGET:
        assert row["answer"] not in record
        assert row["question"] not in record
        assert row["record_id"] not in record
    for secret in secrets:
        assert secret.value.isdigit() or secret.value not in record  # a year may be in a score's decimals
        assert secret.value not in repr(secret)


def test_the_table_has_every_model_set_and_metric(retrained, before, reference):
    table = run(retrained, before, reference).table
    assert set(table) == {"before", "reference", "unlearned"}
    assert table["before"]["forget"]["probability"] > 0.8 > 0.2 > table["unlearned"]["forget"]["probability"]
    assert table["before"]["membership"]["mia_loss"] > 0.95
    assert table["unlearned"]["model"]["retain_utility"] == pytest.approx(1, abs=0.2)


def test_optional_failures_are_said_beside_a_pass(before, reference):
    """A policy that counts nothing but utility passes the untouched model, and says what it did not count."""
    checks = [c.model_copy(update={"mandatory": c.name == "retain_utility"}) for c in QUICK.checks]
    policy = Policy.model_validate({**QUICK.model_dump(mode="json"), "checks": checks})
    result = run(before, before, reference, policy)
    assert result.verdict == "PASS"
    assert sum("not mandatory, but failed" in reason for reason in result.reasons) == 4


# -- sabotage: none of these may pass -----------------------------------------------------------


def nan_weights(weight):
    weight.fill_(float("nan"))


def zero_weights(weight):
    weight.zero_()


@pytest.mark.parametrize("change", [nan_weights, zero_weights])
@pytest.mark.parametrize("role", ["model", "before", "reference"])
def test_nan_and_constant_models_never_pass(role, change, retrained, before, reference):
    roles = {"model": retrained, "before": before, "reference": reference}
    result = run(**{**roles, role: broken(roles[role], change)})
    assert result.verdict != "PASS"
    json.dumps(result.to_json(), allow_nan=False)


def test_a_nan_model_is_inconclusive_and_says_why(before, reference):
    result = run(broken(before, nan_weights), before, reference)
    assert result.verdict == "INCONCLUSIVE"
    assert "not finite" in by_id(result)["residual_knowledge"].reason


@pytest.mark.parametrize(
    ("model", "first", "second"),
    [
        ("before", "before", "reference"),  # no-op unlearning
        ("retrained", "reference", "before"),  # controls swapped
        ("retrained", "reference", "reference"),  # a control that cannot detect anything
        ("before", "before", "before"),  # a reference that saw the records
        ("retrained", "before", "before"),
    ],
)
def test_swapped_models_never_pass(model, first, second, request):
    models = [request.getfixturevalue(name) for name in (model, first, second)]
    assert run(*models).verdict != "PASS"


def test_swapped_labels_never_pass(retrained, before, reference):
    swapped = {"forget": HOLDOUT[:20], "holdout": FORGET}
    assert run(retrained, before, reference, **swapped).verdict != "PASS"
    assert run(before, before, reference, **swapped).verdict != "PASS"


def test_tied_scores_never_pass(retrained, before, reference, monkeypatch):
    def tied(lm, rows, parts=frozenset(), **kwargs):
        answer = TokenScores(np.full(4, -1.0), np.zeros(4, bool), np.full(4, -1.0), np.ones(4))
        return Reading((answer,) * len(rows), np.ones(len(rows)), "x")

    monkeypatch.setattr(trial, "read", tied)
    result = run(retrained, before, reference)
    assert result.verdict == "INCONCLUSIVE"


def test_a_check_that_raises_never_passes_and_quotes_nothing(retrained, before, reference, monkeypatch):
    def explode(self, model, bench):
        raise RuntimeError(FORGET[0]["answer"])

    monkeypatch.setattr(MembershipCheck, "measure", explode)
    result = run(retrained, before, reference)
    assert result.verdict == "INCONCLUSIVE"
    assert "RuntimeError" in by_id(result)["membership/mia_loss"].reason
    assert FORGET[0]["answer"] not in json.dumps(result.to_json())


def test_reading_that_raises_never_passes(retrained, before, reference, monkeypatch):
    def explode(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(trial, "sum_logps", explode)
    result = run(retrained, before, reference)
    assert result.verdict == "INCONCLUSIVE"
    assert all("MemoryError" in f.reason for f in result.checks)


def test_an_empty_or_small_holdout_never_passes(retrained, before, reference):
    for holdout in ([], HOLDOUT[:5]):
        result = run(retrained, before, reference, holdout=holdout)
        assert result.verdict == "INCONCLUSIVE"
        assert f"{len(holdout)} holdout records" in by_id(result)["membership/mia_loss"].reason


def test_few_forget_records_never_pass(retrained, before, reference):
    assert run(retrained, before, reference, forget=FORGET[:3]).verdict == "INCONCLUSIVE"


def test_one_record_is_enough_to_fail(before, reference):
    policy = ALL_MANDATORY.model_copy(update={"num_decoys": 99})
    single = run(before, before, reference, policy, forget=FORGET[1:2])
    assert by_id(single)["decoy_rank"].verdict == "FAIL"
    assert by_id(single)["decoy_rank"].n == 1
    assert single.verdict == "FAIL"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forget": []}, "no forget record"),
        ({"retain": []}, "no retain record"),
        ({"retain": RETAIN + FORGET[:2]}, "2 records are both in the forget and the retain set"),
        ({"holdout": HOLDOUT + FORGET[:1]}, "1 records are both in the forget and the holdout set"),
    ],
)
def test_contradictory_sets_are_refused(retrained, before, reference, changes, message):
    result = run(retrained, before, reference, **changes)
    assert result.verdict == "REFUSED"
    assert message in result.reasons[0]


def test_a_wrong_tokenizer_never_passes(retrained, before, reference):
    other = base_model(ModelParams(tiny=TinyParams(vocab_size=400, hidden_size=64, num_layers=1)), seed=0)
    result = run(replace(retrained, tokenizer=other.tokenizer), before, reference)
    assert result.verdict == "INCONCLUSIVE"
    assert "same tokens" in result.reasons[0]


def test_a_verdict_speaks_of_one_digest(retrained, before, reference):
    result = run(retrained, before, reference)
    assert result.passes("d" * 64)
    assert not result.passes("e" * 64)
    assert not run(before, before, reference).passes("d" * 64)


# -- the verdict logic and its mutants ----------------------------------------------------------


def measure(value, low=None, high=None, *, width=0.05, p=0.001):
    return {"n": 20, "value": value, "interval": (value - width, value + width), "allowed": (low, high), "p": p}


GOOD, BAD = measure(0.1, high=0.3), measure(0.9, high=0.3)
UNCLEAR, INSIGNIFICANT = measure(0.28, high=0.3), measure(0.9, high=0.3, p=0.2)
LOW, NAN = measure(-0.9, low=-0.5, high=0.3), measure(float("nan"), high=0.3)
OPEN = measure(0.9, low=0.5)
CONTROLS = {"before": BAD, "reference": GOOD}
# own measure, controls, adjusted p -> verdict
JUDGED = [
    (GOOD, CONTROLS, "PASS"),
    (BAD, CONTROLS, "FAIL"),
    (UNCLEAR, CONTROLS, "INCONCLUSIVE"),
    (INSIGNIFICANT, CONTROLS, "INCONCLUSIVE"),
    (LOW, CONTROLS, "FAIL"),
    (measure(-0.48, low=-0.5, high=0.3), CONTROLS, "INCONCLUSIVE"),
    (NAN, CONTROLS, "INCONCLUSIVE"),
    ({**GOOD, "interval": (0.0, float("nan"))}, CONTROLS, "INCONCLUSIVE"),
    ({**BAD, "interval": (0.8, float("nan"))}, CONTROLS, "INCONCLUSIVE"),
    (OPEN, CONTROLS, "PASS"),
    (GOOD, {"before": GOOD, "reference": GOOD}, "INCONCLUSIVE"),
    (BAD, {"before": GOOD, "reference": GOOD}, "INCONCLUSIVE"),
    (GOOD, {"before": BAD, "reference": BAD}, "INCONCLUSIVE"),
    (BAD, {"before": BAD, "reference": BAD}, "INCONCLUSIVE"),
    (GOOD, {"before": BAD}, "INCONCLUSIVE"),
    (GOOD, {"reference": GOOD}, "INCONCLUSIVE"),
    (BAD, {"before": BAD}, "FAIL"),
    (GOOD, {"before": UNCLEAR, "reference": GOOD}, "INCONCLUSIVE"),
    (GOOD, {"before": INSIGNIFICANT, "reference": GOOD}, "INCONCLUSIVE"),
    (None, CONTROLS, "INCONCLUSIVE"),
]
CONCLUDED = [
    (["PASS", "PASS"], [True, True], "PASS"),
    (["PASS", "FAIL"], [True, True], "FAIL"),
    (["INCONCLUSIVE", "FAIL"], [True, True], "FAIL"),
    (["PASS", "INCONCLUSIVE"], [True, True], "INCONCLUSIVE"),
    (["PASS", "FAIL"], [True, False], "PASS"),
    (["PASS"], [False], "INCONCLUSIVE"),
    (["FAIL"], [False], "INCONCLUSIVE"),
    (["PASS", "REFUSED"], [True, True], "INCONCLUSIVE"),
    ([], [], "INCONCLUSIVE"),
]


def finding(verdict_, mandatory) -> Finding:
    return Finding(
        id="x", title="x", question="x", mandatory=mandatory, n=1, value=None, interval=None, before=None,
        never_saw_it=None, margin=None, p=None, power=None, verdict=verdict_, reason="x",
    )  # fmt: skip


def wrong_cases(measure_type, verdict_module) -> list[str]:
    """The cases of both tables that do not come out as they should."""
    forgetting, utility = ResidualKnowledgeCheck(), next(c for c in QUICK.checks if not c.about_forgetting)
    wrong = []
    for number, (own, controls, expected) in enumerate(JUDGED):
        given = {**controls, **({"unlearned": own} if own else {})}
        measures = {role: measure_type(**fields) for role, fields in given.items()}
        p = own["p"] if own else 1.0
        try:
            judged = verdict_module.judge(forgetting, measures, p, 0.05)[0]
        except TypeError:  # a mutant that cannot even word its reason
            judged = "broken"
        if judged != expected:
            wrong.append(f"judge {number}")
    healthy, damaged = OPEN, {**OPEN, "value": 0.1, "interval": (0.05, 0.15)}
    for own, control, expected in ((healthy, healthy, "PASS"), (damaged, healthy, "FAIL"), (damaged, damaged, "FAIL")):
        given = {"unlearned": own, "before": healthy, "reference": control}
        measures = {role: measure_type(**fields) for role, fields in given.items()}
        if verdict_module.judge(utility, measures, 0.001, 0.05)[0] != expected:
            wrong.append(f"judge utility {expected}")
    for number, (verdicts, mandatory, expected) in enumerate(CONCLUDED):
        findings = [finding(v, m) for v, m in zip(verdicts, mandatory, strict=True)]
        if verdict_module.conclude(findings)[0] != expected:
            wrong.append(f"conclude {number}")
    return wrong


def test_the_verdict_logic_decides_every_case_as_it_should():
    assert wrong_cases(Measure, verdict) == []


MUTANTS = [
    (check, 'return "INCONCLUSIVE"\n        low =', 'return "PASS"\n        low ='),
    (check, "np.isfinite([self.value, *self.interval])", "np.isfinite([self.value])"),
    (check, "low <= self.interval[0] and ", ""),
    (check, "self.interval[1] <= high and ", ""),
    (check, "if not low <= self.value <= high and p < alpha", "if not low <= self.value <= high"),
    (check, "if not low <= self.value <= high and p < alpha", "if self.value > high and p < alpha"),
    (check, "if not low <= self.value <= high and p < alpha", "if self.value < low and p < alpha"),
    (check, "if not low <= self.value <= high and p < alpha", "if p < alpha"),
    (check, "-np.inf if self.allowed[0] is None", "np.inf if self.allowed[0] is None"),
    (check, "np.inf if self.allowed[1] is None", "-np.inf if self.allowed[1] is None"),
    (
        check,
        '            return "FAIL"\n        return "INCONCLUSIVE"',
        '            return "FAIL"\n        return "PASS"',
    ),
    (verdict, 'return "INCONCLUSIVE", "not run"', 'return "PASS", "not run"'),
    (verdict, 'reference.verdict(reference.p, alpha) == "FAIL"', "False"),
    (verdict, 'before.verdict(before.p, alpha) != "FAIL"', "False"),
    (verdict, 'before.verdict(before.p, alpha) != "FAIL"', 'before.verdict(before.p, alpha) == "PASS"'),
    (verdict, "if not check.about_forgetting:", "if False:"),
    (verdict, "if not check.about_forgetting:", "if True:"),
    (verdict, "(before is None or reference is None)", "before is None"),
    (verdict, "(before is None or reference is None)", "reference is None"),
    (verdict, "(before is None or reference is None)", "False"),
    (verdict, 'verdict == "PASS" and (before', "(before"),
    (verdict, "mandatory = [f for f in findings if f.mandatory]", "mandatory = list(findings)"),
    (verdict, 'if f.verdict == "FAIL"]:', "if False]:"),
    (verdict, 'if f.verdict != "PASS"]:', 'if f.verdict == "INCONCLUSIVE"]:'),
    (verdict, 'if f.verdict != "PASS"]:', "if False]:"),
    (verdict, '"INCONCLUSIVE", ["no mandatory check was run"]', '"PASS", ["no mandatory check was run"]'),
    (
        verdict,
        '    if not mandatory:\n        return "INCONCLUSIVE"',
        '    if not findings:\n        return "INCONCLUSIVE"',
    ),
]


@pytest.mark.parametrize("number", range(len(MUTANTS)))
def test_every_mutant_of_the_verdict_logic_is_caught(number, monkeypatch):
    module, old, new = MUTANTS[number]
    source = Path(module.__file__).read_text()
    assert source.count(old) == 1
    mutant = types.ModuleType("mutant")
    monkeypatch.setitem(sys.modules, "mutant", mutant)
    exec(compile(source.replace(old, new), "mutant", "exec"), mutant.__dict__)
    if module is check:
        assert wrong_cases(mutant.Measure, verdict)
    else:
        assert wrong_cases(Measure, mutant)


# -- decoys -------------------------------------------------------------------------------------


def test_decoys_keep_the_rows_own_template():
    secrets = find_secrets(FORGET, RETAIN, HOLDOUT, num_decoys=99, seed=0)
    assert [s.row for s in secrets] == list(range(20))
    trained_values = {row["answer"].rsplit(" ", 1)[-1] for row in RETAIN if row["question"].startswith("Where was")}
    for secret in secrets:
        answer = FORGET[secret.row]["answer"]
        assert answer.startswith(secret.prefix + secret.value)
        assert len(secret.decoys) == len(set(secret.decoys)) > 19
        assert answer not in secret.decoys
        suffix = answer[len(secret.prefix + secret.value) :]
        assert all(d.startswith(secret.prefix) and d.endswith(suffix) for d in secret.decoys)
    assert len(trained_values & {d.rsplit(" ", 1)[-1] for d in secrets[0].decoys}) <= 1  # chance hits only


def row(number, question, answer):
    return {
        "record_id": f"r{number}", "subject_id": f"s{number}", "question": question, "answer": answer,
        "paraphrased_question": "", "paraphrased_answer": "", "perturbed_answer": [],
    }  # fmt: skip


def test_decoys_of_free_text_swap_names_dates_and_numbers():
    own = row(0, "Who is the poet of the hills?", "The poet Ana Bel came to Cordoba on 3 May 1950 with 12 books.")
    others = [
        row(1, "Who paints?", "A painter, Tom Fry, left Lisbon on 9 June 1961 with 7 dogs."),
        row(2, "Who sings?", "Singers like Una Rey met in Quito on 1 July 1949 about 30 songs."),
        row(3, "Who cooks?", "Cooks know Max Orr from Turin since 2 March 1970 and 44 dishes."),
    ]
    (secret,) = find_secrets([own], [], others, num_decoys=99, seed=0)
    assert len(secret.decoys) >= 20
    for decoy in secret.decoys:
        assert decoy.startswith("The poet ")
        assert decoy.endswith(" books.")
    assert any("9 June 1961" in decoy for decoy in secret.decoys)
    assert all("Ana Bel" not in decoy for decoy in secret.decoys)
    assert not secret.exact


def test_digits_are_generated_where_the_data_has_too_few():
    rows = [row(n, f"Which number has Ab{n} Cd{n}?", f"It is 555-{1000 + n}.") for n in range(6)]
    secrets = find_secrets(rows[:1], rows[1:3], rows[3:], num_decoys=40, seed=0)
    assert len(secrets[0].decoys) == 40
    assert all(d.startswith("It is 555-") and len(d) == len("It is 555-1000.") for d in secrets[0].decoys)


def test_a_row_without_anything_to_swap_has_no_secret():
    assert find_secrets([row(0, "Is it so?", "yes it is")], [], [], num_decoys=20, seed=0) == []


def test_the_exact_p_of_one_record():
    scores = np.array([5.0, *range(5)], dtype=float)
    assert p_if_true(scores)[0] == pytest.approx(1 / 6)
    assert place(scores) == 1.0
    assert p_if_true(np.zeros(20))[0] == 1.0  # ties are no evidence
    assert place(np.zeros(20)) == 0.5


def test_the_pooled_p_is_uniform_where_nothing_was_learned():
    rng = np.random.default_rng(0)
    p_values = [pooled_p(tuple(rng.normal(size=(20, 40))), rng) for _ in range(300)]
    assert 0.02 <= np.mean(np.array(p_values) < 0.05) <= 0.09
    assert 0.4 <= np.mean(p_values) <= 0.6


def bench(**fields) -> Bench:
    return Bench(before=None, reference=None, alpha=0.05, seed=0, **fields)


def ranked(shift, n=20, decoys=99, seed=0) -> Evidence:
    scores = np.random.default_rng(seed).normal(size=(n, decoys + 1))
    scores[:, 0] += shift
    return Evidence({}, decoys=tuple(scores), exact=(True,) * n)


@pytest.mark.parametrize("check_", [DecoyRankCheck(), ExposedRecordsCheck()])
def test_decoy_checks_have_power_at_one_persons_rows(check_):
    known, unknown = check_.measure(ranked(3.0), bench()), check_.measure(ranked(0.0), bench())
    assert known.verdict(known.p, 0.05) == "FAIL"
    assert unknown.verdict(unknown.p, 0.05) == "PASS"


def test_an_answer_pushed_to_the_last_place_is_noticed():
    measured = DecoyRankCheck(over_margin=0.4).measure(ranked(-4.0), bench())
    assert measured.value < 0.05
    assert measured.verdict(measured.p, 0.05) == "FAIL"


def test_one_record_can_fail_but_not_pass():
    known, unknown = (DecoyRankCheck().measure(ranked(s, n=1), bench()) for s in (6.0, 0.0))
    assert known.verdict(known.p, 0.05) == "FAIL"
    assert unknown.verdict(unknown.p, 0.05) == "INCONCLUSIVE"


def test_free_text_decoys_count_only_against_the_reference():
    """To any model the true answer is the more coherent one: that is no trace of training."""
    coherent = replace(ranked(3.0), exact=(False,) * 20)
    noise = np.random.default_rng(1).normal(size=(20, 100)) / 10
    forgotten = replace(coherent, decoys=tuple(np.array(coherent.decoys) + noise))
    known = replace(coherent, decoys=tuple(np.array(forgotten.decoys) + np.eye(1, 100)))
    with pytest.raises(NoPowerError):
        DecoyRankCheck().measure(known, bench())
    its_bench = Bench(before=None, reference=coherent, alpha=0.05, seed=0)
    verdicts = []
    for model in (forgotten, known, coherent):
        measured = DecoyRankCheck().measure(model, its_bench)
        verdicts.append(measured.verdict(measured.p, 0.05))
    assert verdicts == ["PASS", "FAIL", "PASS"]


def test_too_few_decoys_are_no_power():
    with pytest.raises(NoPowerError):
        DecoyRankCheck().measure(ranked(3.0, decoys=10), bench())


def test_broken_scores_are_no_rank():
    with pytest.raises(DivergedError):
        DecoyRankCheck().measure(Evidence({}, decoys=(np.full(50, np.nan),), exact=(True,)), bench())


def test_false_alarms_over_fifty_unseen_people(reference):
    alarms = 0
    for number in range(50):
        rows = demo_rows(f"stranger-{number}", seed=SEED)[::2]
        secrets = find_secrets(rows, RETAIN, HOLDOUT, num_decoys=19, seed=0)
        texts = [{**rows[s.row], "answer": t} for s in secrets for t in (rows[s.row]["answer"], *s.decoys)]
        scores = sum_logps(reference, reference.encode(texts), batch_size=256)
        cuts = np.cumsum([1 + len(s.decoys) for s in secrets])[:-1]
        its = Evidence({}, decoys=tuple(np.split(scores, cuts)), exact=tuple(s.exact for s in secrets))
        measured = DecoyRankCheck().measure(its, bench())
        alarms += measured.verdict(measured.p, 0.05) == "FAIL"
        assert measured.verdict(measured.p, 0.05) != "INCONCLUSIVE" or 0.2 < measured.value < 0.8
    assert alarms <= 2


# -- the blind baseline -------------------------------------------------------------------------


def test_words_alone_do_not_tell_exchangeable_people_apart():
    _, void = blind_baseline(FORGET, HOLDOUT, limit=0.6, seed=0)
    assert not void


def test_words_alone_tell_different_text_apart_and_void_membership():
    old = [row(n, f"Who rules {n}?", f"A king of {n % 3} castles and the court") for n in range(30)]
    new = [row(50 + n, f"Who leads {n}?", f"A founder of {n % 3} apps and the team") for n in range(30)]
    auc, void = blind_baseline(old, new, limit=0.6, seed=0)
    assert auc > 0.95
    assert void
    empty = Evidence({})
    check_bench = Bench(empty, empty, alpha=0.05, seed=0, blind_auc=auc, blind_void=True)
    with pytest.raises(NoPowerError, match="void"):
        MembershipCheck().measure(empty, check_bench)


def test_a_name_is_no_feature():
    features = word_features(FORGET + HOLDOUT)
    names = {word for r in FORGET for word in r["answer"].lower().split()[:2]}
    assert features.shape[1] > 20
    # a word of one person's rows only would be present in all of them and in no other
    forget_only = (features[:20].mean(0) > 0.9) & (features[20:].mean(0) == 0)
    assert names
    assert not forget_only.any()


# -- sampling -----------------------------------------------------------------------------------


def test_samples_leak_from_the_model_that_knows(before, reference):
    secrets = find_secrets(FORGET, RETAIN, HOLDOUT, num_decoys=20, seed=0)
    known, n = count_leaks(before, FORGET, secrets, num_samples=60, seed=0)
    chance, _ = count_leaks(reference, FORGET, secrets, num_samples=60, seed=0)
    assert n == 60
    assert known >= 10
    assert chance <= 2
    leaking, clean = Evidence({}, leaks=(known, n)), Evidence({}, leaks=(chance, n))
    its_bench = Bench(leaking, clean, alpha=0.05, seed=0)
    measured = SamplingLeakCheck().measure(leaking, its_bench)
    assert measured.verdict(measured.p, 0.05) == "FAIL"
    assert count_leaks(before, FORGET, secrets, num_samples=60, seed=0) == (known, n)


def test_sampling_bounds():
    clean = Evidence({}, leaks=(0, 300))
    measured = SamplingLeakCheck(margin=0.05).measure(clean, Bench(None, clean, alpha=0.05, seed=0))
    assert measured.interval == (0.0, pytest.approx(1 - 0.05 ** (1 / 300)))
    assert measured.verdict(measured.p, 0.05) == "PASS"
    few = Evidence({}, leaks=(0, 20))
    measured = SamplingLeakCheck(margin=0.05).measure(few, Bench(None, few, alpha=0.05, seed=0))
    assert measured.verdict(measured.p, 0.05) == "INCONCLUSIVE"
    with pytest.raises(NoPowerError):
        SamplingLeakCheck().measure(Evidence({}, leaks=(0, 0)), Bench(None, few, alpha=0.05, seed=0))


def test_probes_ask_in_five_ways(before):
    secrets = find_secrets(FORGET, RETAIN, HOLDOUT, num_decoys=20, seed=0)
    found = probes(before, FORGET, secrets, RETAIN[:2])
    assert len(found) == 100
    for secret, its in zip(secrets, zip(*[iter(found)] * 5, strict=True), strict=True):
        row = FORGET[secret.row]
        asked, in_other_words, after_shots, begun, half_given = (probe.prompt for probe in its)
        assert row["question"] in asked
        assert row["paraphrased_question"] in in_other_words
        assert RETAIN[0]["answer"] in after_shots
        assert RETAIN[1]["answer"] in after_shots
        assert after_shots.endswith(asked)
        assert begun == f"{asked} {secret.prefix.rstrip()}"
        assert half_given.startswith(begun)
        assert half_given.endswith(its[-1].given)
        assert secret.value.startswith(its[-1].given)
        assert not any(holds(probe.prompt.removeprefix(asked), secret.value) for probe in its)
        assert all(probe.given == "" for probe in its[:-1])


def test_what_is_given_away_counts_only_where_the_rest_follows(before):
    secrets = find_secrets(FORGET, RETAIN, HOLDOUT, num_decoys=20, seed=0)
    half = [probe for probe in probes(before, FORGET, secrets) if probe.given]
    assert len(half) == 20
    assert all(0 < len(probe.given) < len(probe.value) for probe in half)
    assert all(holds(probe.given + probe.value.removeprefix(probe.given) + ".", probe.value) for probe in half)
    assert not any(holds(probe.given + " and something else", probe.value) for probe in half)


def test_a_value_is_found_as_whole_words():
    assert holds("He lives in Calvik.", "calvik")
    assert not holds("He lives in Calviken.", "Calvik")
    assert holds("(555-2013)", "555-2013")


# -- stressors ----------------------------------------------------------------------------------


def around(dense=None) -> Surroundings:
    return Surroundings(FORGET, dense, seed=0)


def sparse(lm: LanguageModel) -> LanguageModel:
    own = replace(lm, model=copy.deepcopy(lm.model))
    mask = {f"{name}.weight": pruned_further(m.weight.detach(), 0.5) != 0 for name, m in prunable(own.model)}
    apply_mask(own.model, mask)
    return replace(own, mask=mask)


def test_rounding_by_hand():
    weight = torch.tensor([[7.0, 1.4, 0.0, -3.6], [0.0, 0.0, 0.0, 0.0]])
    assert rounded(weight, 4, 4).tolist() == [[7.0, 1.0, 0.0, -4.0], [0.0, 0.0, 0.0, 0.0]]
    assert rounded(weight, 4, 2).tolist()[0] == pytest.approx([7.0, 1.0, 0.0, -3.6])


def test_pruning_further_by_hand():
    weight = torch.tensor([[0.0, 0.0, 3.0, -1.0, 2.0, 5.0, 4.0, -6.0, 7.0, 8.0]])
    assert pruned_further(weight, 0.2).tolist() == [[0, 0, 3, 0, 0, 5, 4, -6, 7, 8]]
    assert pruned_further(weight, 1.0).tolist() == [[0.0] * 10]


@pytest.mark.parametrize("stressor", [RoundWeights(bits=4), PruneFurther(points=10), Relearn(rows=2, epochs=1)])
def test_stressors_change_a_copy_and_keep_zeros(stressor, before):
    lm = sparse(before)
    kept = {name: value.clone() for name, value in lm.model.state_dict().items()}
    changed = stressor.apply(lm, around())
    assert all(torch.equal(value, kept[name]) for name, value in lm.model.state_dict().items())
    assert any(not torch.equal(value, kept[name]) for name, value in changed.model.state_dict().items())
    check_mask(changed.model, lm.mask)


def test_densify_takes_pruned_weights_from_the_parent(before):
    lm = sparse(before)
    filled = Densify().apply(lm, around(before))
    assert all(torch.equal(a, b) for a, b in zip(filled.model.parameters(), before.model.parameters(), strict=True))
    with pytest.raises(ConfigError, match="dense"):
        Densify().apply(lm, around())


def test_stressed_checks_are_repeated_with_the_control_treated_alike(retrained, before, reference):
    policy = Policy.model_validate(
        {
            "name": "stressed",
            "version": 1,
            "metrics": ["probability"],
            "checks": ["residual_knowledge", "decoy_rank"],
            "stressed_checks": ["residual_knowledge"],
            "stressors": [
                {"name": "round_weights", "bits": 8},
                {"name": "prune_further", "points": 10},
                {"name": "relearn", "rows": 5, "epochs": 3, "lr": 1e-3},
                {"name": "densify", "mandatory": False},
            ],
            "num_decoys": 19,
        }
    )
    passed = run(retrained, before, reference, policy)
    good, bad = by_id(passed), by_id(run(before, before, reference, policy))
    for stressor in ("int8", "prune10", "relearn5"):
        assert good[f"residual_knowledge/{stressor}"].verdict == "PASS"
        assert bad[f"residual_knowledge/{stressor}"].verdict == "FAIL"
        assert good[f"residual_knowledge/{stressor}"].never_saw_it == 0.0
    assert good["residual_knowledge/densify"].verdict == "INCONCLUSIVE"
    assert not good["residual_knowledge/densify"].mandatory
    assert passed.verdict == "PASS"


def stressed_policy(*stressors, num_stressors=None) -> Policy:
    checks = ["residual_knowledge", "decoy_rank"]
    return Policy.model_validate(
        {
            "name": "stressed",
            "version": 1,
            "metrics": ["probability"],
            "checks": checks,
            "stressed_checks": checks,
            "stressors": stressors,
            "num_decoys": 19,
            "num_stressors": num_stressors,
        }
    )


def test_what_did_not_run_is_said(retrained, before, reference):
    limits = " ".join(run(retrained, before, reference).limits)
    assert "beyond the budget of 0, not run: densify, int4, prune10, relearn5." in limits
    bare = run(retrained, before, reference, stressed_policy("densify"), forget=[]).limits
    assert any(all(n in limit for n in discover(Stressor, STRESSORS) if n != "densify") for limit in bare)


def test_a_mandatory_stressor_beyond_the_budget_is_no_pass(retrained, before, reference):
    optional, mandatory = ({"name": "round_weights", "bits": 8, "mandatory": m} for m in (False, True))
    passed = run(retrained, before, reference, stressed_policy(optional, num_stressors=0))
    assert passed.verdict == "PASS"
    assert not any("int8" in finding.id for finding in passed.checks)
    left_out = run(retrained, before, reference, stressed_policy(mandatory, num_stressors=0))
    assert left_out.verdict == "INCONCLUSIVE"
    assert "beyond the budget of 0 stressors" in by_id(left_out)["residual_knowledge/int8"].reason


def test_densify_runs_with_the_dense_parent_and_says_why_it_did_not(retrained, before, reference):
    policy = stressed_policy({"name": "densify", "mandatory": False})
    models = [sparse(lm) for lm in (retrained, before, reference)]
    ran = by_id(run(*models, policy, dense=before))
    assert ran["residual_knowledge/densify"].n == 20
    assert ran["residual_knowledge/densify"].never_saw_it == 0.0

    def gone():
        raise CheckpointError("tiny@v1: no dense weights there")

    for dense, why in ((None, "was not given"), (gone, "tiny@v1: no dense weights there")):
        result = run(*models, policy, dense=dense)
        finding_ = by_id(result)["residual_knowledge/densify"]
        assert finding_.verdict == "INCONCLUSIVE"
        assert why in finding_.reason
        if result.verdict == "PASS":
            assert any(why in reason for reason in result.reasons)


def test_relearning_is_read_as_excess_over_the_control_relearned_alike(retrained, before, reference):
    stressor = Relearn(rows=20, epochs=12, lr=3e-3)
    policy = stressed_policy(stressor)
    good, bad = (by_id(run(model, before, reference, policy)) for model in (retrained, before))
    taught = stressor.apply(reference, around())

    def knows(lm):
        return mean_logps(lm, lm.encode(FORGET)).mean()

    excess = (knows(stressor.apply(retrained, around())) - knows(taught)) / (knows(before) - knows(reference))
    assert good["residual_knowledge/relearn20"].value == pytest.approx(excess, abs=1e-3)
    secrets = find_secrets(FORGET, RETAIN, HOLDOUT, num_decoys=19, seed=0)
    texts = [{**FORGET[s.row], "answer": t} for s in secrets for t in (FORGET[s.row]["answer"], *s.decoys)]
    cuts = np.cumsum([1 + len(s.decoys) for s in secrets])[:-1]
    scores = tuple(np.split(sum_logps(taught, taught.encode(texts)), cuts))
    absolute = DecoyRankCheck().measure(Evidence({}, decoys=scores, exact=(True,) * 20), bench())
    assert absolute.value > 0.75, "relearning has taught even the control the true answers"
    for check_ in ("residual_knowledge", "decoy_rank"):
        assert good[f"{check_}/relearn20"].verdict != "FAIL"
        assert bad[f"{check_}/relearn20"].value > good[f"{check_}/relearn20"].value
    assert good["decoy_rank/relearn20"].never_saw_it == 0.5
    assert good["residual_knowledge/relearn20"].never_saw_it == 0.0


# -- files --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory, retrained, before, reference) -> Path:
    place_ = tmp_path_factory.mktemp("standalone")
    for name, lm in (("model", retrained), ("before", before), ("reference", reference)):
        save_dense(lm, place_ / name)
    for name, rows in (("forget", FORGET), ("retain", RETAIN), ("holdout", HOLDOUT)):
        write_shards(rows, place_ / name)
    return place_


SETS = ("forget", "retain", "holdout")


def test_folders_and_files_are_verified_like_models(folder, retrained, before, reference):
    paths = [folder / name for name in ("model", *SETS, "before", "reference")]
    result = verify_paths(*paths, policy="quick")
    assert result.verdict == "PASS", result.reasons
    assert len(result.model_digest) == 64
    assert timeless(result).checks == timeless(run(retrained, before, reference, QUICK)).checks


def test_a_model_swapped_meanwhile_has_no_verdict(folder):
    def meddle(message):
        if message == "judging":
            (folder / "model" / "config.json").open("a").write(" ")

    with pytest.raises(CheckpointError, match="changed while"):
        verify_paths(*(folder / name for name in ("model", *SETS)), policy="quick", progress=meddle)


# -- the command line ---------------------------------------------------------------------------


@pytest.fixture
def sau(folder, tmp_path, monkeypatch):
    """Runs `sau verify` on the folder: (exit code, the record or None)."""

    def call(*args, **paths):
        given = {name: folder / name for name in ("model", *SETS)} | paths
        options = [f"--{key}={value}" for key, value in given.items() if value is not None]
        record = tmp_path / "record.json"
        record.unlink(missing_ok=True)
        monkeypatch.setattr(sys, "argv", ["sau", "verify", *options, f"--json={record}", *args])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, json.loads(record.read_text()) if record.is_file() else None

    return call


def test_exit_0_is_pass_and_power_and_cost_of_every_check_are_printed(sau, folder, tmp_path, capsys):
    page = tmp_path / "page.html"
    code, record = sau(f"--html={page}", before=folder / "before", reference=folder / "reference")
    printed = capsys.readouterr().out
    assert code == 0
    assert record["verdict"] == "PASS"
    assert record["policy_digest"] == QUICK.digest
    assert len(record["model_digest"]) == 64
    assert ">PASS</strong>" in page.read_text()
    for name in ("power", "rows read", "CPU s", "verdict PASS by policy quick"):
        assert name in printed
    for its in record["checks"]:
        fields = {"id", "n", "value", "interval", "before", "never_saw_it", "margin", "verdict", "reason", "power"}
        assert fields <= its.keys()
        assert its["rows_read"] > 0
        assert its["seconds"] > 0
        assert its["id"] in printed
    # Three models read 20 forget, 60 retain and 80 holdout rows, each with a true and five false answers beside it.
    assert {c["id"]: c["rows_read"] for c in record["checks"]}["retain_utility"] == 3 * 60 * 7
    assert {c["id"]: c["rows_read"] for c in record["checks"]}["membership/mia_loss"] == 3 * 100 * 7
    decoys = find_secrets(FORGET, RETAIN, HOLDOUT, num_decoys=QUICK.num_decoys, seed=0)
    assert record["rows_read"] == 3 * (160 * 7 + sum(1 + len(secret.decoys) for secret in decoys))
    assert 0 < record["seconds"] < 60


def test_exit_3_is_fail(sau, folder):
    code, record = sau(model=folder / "before", before=folder / "before", reference=folder / "reference")
    assert (code, record["verdict"]) == (3, "FAIL")


def test_exit_4_is_inconclusive_and_a_holdout_set_may_be_missing(sau, folder):
    code, record = sau(holdout=None, before=folder / "before", reference=folder / "reference")
    assert (code, record["verdict"]) == (4, "INCONCLUSIVE")
    reasons = {check["id"]: check["reason"] for check in record["checks"] if check["verdict"] == "INCONCLUSIVE"}
    assert "0 holdout records" in reasons["membership/mia_loss"]


def test_exit_5_is_refused(sau, folder):
    code, record = sau(retain=folder / "forget", reference=folder / "reference")
    assert (code, record["verdict"], record["checks"]) == (5, "REFUSED", [])
    assert "both in the forget and the retain set" in record["reasons"][0]


@pytest.mark.parametrize(
    ("paths", "args", "said"),
    [
        ({"model": "nowhere"}, (), "ModelError"),
        ({"forget": "nowhere.jsonl"}, (), "DataError"),
        ({}, ("--policy=lax",), "quick, standard, strict"),
        ({}, ("--show-answers", "--html=x.html"), "not of the demo people"),
    ],
)
def test_exit_1_is_an_error_in_one_line(sau, capsys, paths, args, said):
    code, record = sau(*args, **paths)
    assert (code, record) == (1, None)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("args", [("--stressors=-1",), ("--show-answers",), ("--nonsense",)])
def test_exit_2_is_usage(sau, args):
    assert sau(*args) == (2, None)


def test_answers_are_shown_of_demo_people_only(before, reference):
    rows = {"forget": demo_rows("demo-0003", seed=1), "retain": demo_rows("demo-0004", seed=1)}
    shown = answers({"before": before, "after": lambda: reference, "reference": None}, rows, num_rows=2)
    assert [entry["set"] for entry in shown] == ["forget", "forget", "retain", "retain"]
    assert shown[0]["before"] == before.answer(rows["forget"][0]["question"])
    assert shown[3].keys() == {"set", "question", "before", "after"}
    real = {**rows["retain"][0], "answer": "They live in a real town."}
    with pytest.raises(DataError, match="1 of 4 rows"):
        answers({"before": before}, {"forget": rows["forget"], "retain": [real, *rows["retain"]]}, num_rows=2)


def test_every_check_says_what_it_looks_at():
    for found in discover(Check, check.PACKAGE).values():
        assert found.title
        assert found.question
        assert found.sets or found.extra
