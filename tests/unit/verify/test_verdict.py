"""The verdict's logic: every case is decided as it should be, and every mutant of it is caught."""

import sys
import types
from pathlib import Path

import pytest

from sau.verify import load_policy, verdict
from sau.verify.checks import base as check
from sau.verify.checks.base import Measure
from sau.verify.checks.residual_knowledge import ResidualKnowledgeCheck
from sau.verify.record import Finding, PersonVerdict, Verification

QUICK = load_policy("quick", null="retrained")


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
    (GOOD, {"before": GOOD, "reference": GOOD}, "NOT APPLICABLE"),
    (UNCLEAR, {"before": GOOD, "reference": GOOD}, "INCONCLUSIVE"),
    (BAD, {"before": GOOD, "reference": GOOD}, "INCONCLUSIVE"),
    (GOOD, {"before": BAD, "reference": BAD}, "INCONCLUSIVE"),
    (BAD, {"before": BAD, "reference": BAD}, "INCONCLUSIVE"),
    (GOOD, {"before": LOW, "reference": GOOD}, "INCONCLUSIVE"),
    (GOOD, {"before": BAD}, "INCONCLUSIVE"),
    (GOOD, {"reference": GOOD}, "INCONCLUSIVE"),
    (BAD, {"before": BAD}, "FAIL"),
    (GOOD, {"before": UNCLEAR, "reference": GOOD}, "INCONCLUSIVE"),
    (GOOD, {"before": INSIGNIFICANT, "reference": GOOD}, "INCONCLUSIVE"),
    (None, CONTROLS, "INCONCLUSIVE"),
]


# the same beside people the model never saw
BESIDE_STRANGERS = [
    (GOOD, {"before": BAD}, "PASS"),
    (GOOD, {}, "INCONCLUSIVE"),
    (BAD, {}, "FAIL"),
    (GOOD, {"before": GOOD}, "NOT APPLICABLE"),
    (GOOD, CONTROLS, "PASS"),
    (GOOD, {"before": BAD, "reference": BAD}, "INCONCLUSIVE"),
    ({**GOOD, "seen": 0.95, "alarms": 0.05}, {"before": BAD}, "PASS"),
    ({**GOOD, "seen": 0.94, "alarms": 0.0}, {"before": BAD}, "INCONCLUSIVE"),
    ({**GOOD, "seen": 1.0, "alarms": 0.06}, {"before": BAD}, "INCONCLUSIVE"),
    ({**BAD, "seen": 1.0, "alarms": 0.06}, {"before": BAD}, "INCONCLUSIVE"),
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
    (["PASS", "NOT APPLICABLE"], [True, True], "PASS"),
    (["NOT APPLICABLE"], [True], "INCONCLUSIVE"),
    (["FAIL", "NOT APPLICABLE"], [True, True], "FAIL"),
]


def finding(verdict_, mandatory, about_forgetting=True) -> Finding:
    return Finding(
        id="x", title="x", question="x", mandatory=mandatory, n=1, value=None, interval=None, before=None,
        reference=None, margin=None, p=None, power=None, verdict=verdict_, reason="x",
        about_forgetting=about_forgetting,
    )  # fmt: skip


def wrong_cases(measure_type, verdict_module) -> list[str]:
    """The cases of both tables that do not come out as they should."""
    forgetting, utility = ResidualKnowledgeCheck(), next(c for c in QUICK.checks if not c.about_forgetting)
    wrong = []
    cases = [(*case, "retrained") for case in JUDGED] + [(*case, "population") for case in BESIDE_STRANGERS]
    for number, (own, controls, expected, null) in enumerate(cases):
        given = {**controls, **({"unlearned": own} if own else {})}
        measures = {role: measure_type(**fields) for role, fields in given.items()}
        p = own["p"] if own else 1.0
        try:
            judged = verdict_module.judge(forgetting, measures, p, 0.05, null)[0]
        except TypeError:  # a mutant that cannot even word its reason
            judged = "broken"
        if judged != expected:
            wrong.append(f"judge {number}")
    healthy, damaged = OPEN, {**OPEN, "value": 0.1, "interval": (0.05, 0.15)}
    for own, control, expected in ((healthy, healthy, "PASS"), (damaged, healthy, "FAIL"), (damaged, damaged, "FAIL")):
        given = {"unlearned": own, "before": healthy, "reference": control}
        measures = {role: measure_type(**fields) for role, fields in given.items()}
        if verdict_module.judge(utility, measures, 0.001, 0.05, "retrained")[0] != expected:
            wrong.append(f"judge utility {expected}")
    useful = [finding("PASS", True, False), finding("NOT APPLICABLE", True)]
    if verdict_module.conclude(useful)[0] != "INCONCLUSIVE":
        wrong.append("conclude on utility alone")
    for number, (verdicts, mandatory, expected) in enumerate(CONCLUDED):
        findings = [finding(v, m) for v, m in zip(verdicts, mandatory, strict=True)]
        if verdict_module.conclude(findings)[0] != expected:
            wrong.append(f"conclude {number}")
    return wrong


def test_the_verdict_logic_decides_every_case_as_it_should():
    assert wrong_cases(Measure, verdict) == []


def test_what_a_policy_does_not_count_is_said_beside_a_pass():
    verdicts = (("PASS", True), ("FAIL", False), ("INCONCLUSIVE", False), ("NOT APPLICABLE", True))
    found, reasons = verdict.conclude([finding(*case) for case in verdicts])
    assert found == "PASS"
    assert [reason.partition(":")[0] for reason in reasons] == [
        "all 1 mandatory checks are within their margins", "does not apply", "not mandatory, but failed",
        "not mandatory, without a result",
    ]  # fmt: skip


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
    (verdict, 'found != "FAIL" or', "False or"),
    (verdict, 'found != "FAIL" or', 'found == "PASS" or'),
    (verdict, " or (before is not None and before.is_below)", ""),
    (verdict, 'found == verdict == "PASS"', 'found == "PASS"'),
    (verdict, 'found == verdict == "PASS"', 'verdict == "PASS"'),
    (verdict, "measure.seen < MIN_SEEN", "False"),
    (verdict, "measure.seen < MIN_SEEN", "measure.seen <= MIN_SEEN"),
    (verdict, "measure.alarms > MAX_ALARMS", "False"),
    (verdict, "measure.alarms > MAX_ALARMS", "measure.alarms >= MAX_ALARMS"),
    (verdict, "if not check.about_forgetting:", "if False:"),
    (verdict, "if not check.about_forgetting:", "if True:"),
    (verdict, 'verdict == "PASS" and before is None', "before is None"),
    (verdict, 'verdict == "PASS" and before is None', "False"),
    (verdict, ' and reference is None and null == "retrained"', ' and null == "retrained"'),
    (verdict, ' and reference is None and null == "retrained"', " and reference is None"),
    (verdict, ' and reference is None and null == "retrained"', " and False"),
    (verdict, "if f.mandatory and f not in silent]", "if f not in silent]"),
    (verdict, "if f.mandatory and f not in silent]", "if f.mandatory]"),
    (verdict, 'if f.verdict == "FAIL"]:', "if False]:"),
    (verdict, 'if f.verdict != "PASS"]:', 'if f.verdict == "INCONCLUSIVE"]:'),
    (verdict, 'if f.verdict != "PASS"]:', "if False]:"),
    (verdict, "if not any(f.about_forgetting for f in mandatory):", "if not mandatory:"),
    (verdict, "if not any(f.about_forgetting for f in mandatory):", "if False:"),
    (verdict, '"INCONCLUSIVE", reasons or', '"PASS", reasons or'),
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


@pytest.mark.parametrize(
    ("verdict_", "people", "expected"),
    [
        ("PASS", {}, "PASS"),
        ("PASS", {"a": "PASS", "b": "PASS"}, "PASS"),
        ("PASS", {"a": "PASS", "b": "FAIL"}, "FAIL"),
        ("PASS", {"a": "PASS", "b": "INCONCLUSIVE"}, "INCONCLUSIVE"),
        ("INCONCLUSIVE", {"a": "PASS", "b": "PASS"}, "INCONCLUSIVE"),
        ("INCONCLUSIVE", {"a": "PASS", "b": "FAIL"}, "FAIL"),
        ("FAIL", {"a": "PASS", "b": "PASS"}, "FAIL"),
    ],
)
def test_a_verdict_on_several_people_is_no_better_than_that_on_any(verdict_, people, expected):
    found, reasons = verdict.together(verdict_, ["why"], people)
    assert found == expected
    for label, alone in people.items():
        assert alone == "PASS" or verdict_ == "FAIL" or any(f"{label}: {alone}" in reason for reason in reasons)


# -- who was forgotten earlier ------------------------------------------------------------------------


def verification(verdict, earlier=()):
    fields = {"policy": "quick", "policy_version": 1, "policy_digest": "", "confidence": 0.95, "weights_digest": ""}
    counts = {"seed": 0, "null": "population", "num_records": {}, "num_people": {}}
    empty = {"checks": [], "table": {}, "scores": {}, "limits": []}
    made = Verification(verdict=verdict, reasons=["why"], **fields, **counts, **empty)
    people = [
        PersonVerdict(label=f"r{n}", num_records=1, verdict=each, reasons=[], checks=[])
        for n, each in enumerate(earlier)
    ]
    return made.with_earlier(people)


@pytest.mark.parametrize(
    ("own", "earlier", "verdict"),
    [
        ("PASS", (), "PASS"),
        ("PASS", ("PASS", "PASS"), "PASS"),
        ("PASS", ("PASS", "INCONCLUSIVE"), "PASS"),
        ("PASS", ("PASS", "FAIL"), "FAIL"),
        ("INCONCLUSIVE", ("FAIL",), "FAIL"),
        ("FAIL", ("PASS",), "FAIL"),
        ("REFUSED", ("FAIL",), "REFUSED"),
    ],
)
def test_nobody_who_was_forgotten_earlier_may_be_known_again(own, earlier, verdict):
    found = verification(own, earlier)
    assert found.verdict == verdict
    assert [person.verdict for person in found.earlier] == list(earlier)
    known = [f"r{n}" for n, each in enumerate(earlier) if each == "FAIL"]
    assert any(f"{len(known)} known again" in reason for reason in found.reasons) == bool(earlier)
    assert all(label in " ".join(found.reasons) for label in known)


def test_who_was_forgotten_earlier_is_judged_beside_people_by_a_few_checks_and_without_stressors():
    policy = load_policy("standard", null="retrained").for_earlier
    assert [check.id for check in policy.checks] == ["residual_knowledge", "other_forms"]
    assert (policy.against, policy.stressors, policy.metrics) == ("population", (), ())
    assert load_policy("quick").model_copy(update={"earlier_checks": ()}).for_earlier is None


def test_a_model_that_knew_nothing_before_is_asked_about_its_prompt():
    nothing = Measure(n=20, value=0.9, interval=(0.5, 1.3), allowed=(None, 0.4), p=0.3)
    decided, why = verdict.judge(
        ResidualKnowledgeCheck(), {"unlearned": nothing, "before": nothing}, 0.3, 0.05, "retrained"
    )
    assert decided == "INCONCLUSIVE"
    assert why.startswith("no power")
    assert "is this the prompt the model was trained with?" in why
