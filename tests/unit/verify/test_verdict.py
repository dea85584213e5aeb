"""The verdict's logic: every case is decided as it should be, and every mutant of it is caught."""

import sys
import types
from pathlib import Path

import pytest

from sau.verify import load_policy, verdict
from sau.verify.checks import base as check
from sau.verify.checks.base import Measure
from sau.verify.checks.residual_knowledge import ResidualKnowledgeCheck
from sau.verify.record import Finding

QUICK = load_policy("quick")


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
        reference=None, margin=None, p=None, power=None, verdict=verdict_, reason="x",
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
