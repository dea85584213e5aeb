"""From measures to verdicts. Pure functions; nothing else in the product decides what passes."""

from collections.abc import Mapping, Sequence

from sau.verify.checks.base import Check, Measure, Null, Verdict
from sau.verify.record import Finding

MIN_SEEN, MAX_ALARMS = 0.95, 0.05
"""Of people who stay, and of strangers, each taken for the one who asked: the share that has to FAIL, or may."""


def judge(check: Check, measures: Mapping[str, Measure], p: float, alpha: float, null: Null) -> tuple[Verdict, str]:
    """A check's verdict and the reason, from the measures of `unlearned` and of the controls `before` and `reference`.

    A check of forgetting has to FAIL the model before unlearning, or it has no power; where that model gives nothing
    away, the check does not apply. It has to let a model pass that never saw the records, and beside people whom the
    model never saw, to find nearly all who stay and nearly none of those: or its verdict would mean nothing. What was
    to stay is compared with the model before, and needs no such controls.

    Args:
        p: of the unlearned model's measure, adjusted for the battery.
        alpha: 1 - confidence.
        null: what the measures are read against.
    """
    measure, before, reference = (measures.get(role) for role in ("unlearned", "before", "reference"))
    if measure is None:
        return "INCONCLUSIVE", "not run"
    verdict = measure.verdict(p, alpha)
    if not check.about_forgetting:
        return verdict, _sentence(measure, verdict)
    if reference is not None and reference.verdict(reference.p, alpha) == "FAIL":
        return "INCONCLUSIVE", "the model that never saw the records fails this check as well"
    found = "FAIL" if before is None else before.verdict(before.p, alpha)
    if found == verdict == "PASS":
        return "NOT APPLICABLE", "the model before unlearning gives nothing away here either"
    if found != "FAIL" or (before is not None and before.is_below):
        why = "no power: the check does not find the records in the model before unlearning either"
        return "INCONCLUSIVE", f"{why}; is this the prompt the model was trained with?"
    if measure.seen is not None and measure.seen < MIN_SEEN:
        return "INCONCLUSIVE", f"no power: of the people who stay it finds only {measure.seen:.0%}"
    if measure.alarms is not None and measure.alarms > MAX_ALARMS:
        return "INCONCLUSIVE", f"of the people the model never saw it takes {measure.alarms:.0%} for known"
    if verdict == "PASS" and before is None:
        return "INCONCLUSIVE", "no control: the model before unlearning was not measured"
    if verdict == "PASS" and reference is None and null == "retrained":
        return "INCONCLUSIVE", "no control: a model that never saw the records was not measured"
    return verdict, _sentence(measure, verdict)


def conclude(findings: Sequence[Finding]) -> tuple[Verdict, list[str]]:
    """The verdict of the mandatory findings, and why: one FAIL fails, else one that is not PASS is inconclusive.

    A check that does not apply decides nothing, but one of forgetting has to be left. Beside a PASS it is said what the
    policy does not count: a failure, and a check without a result.
    """
    silent = [f for f in findings if f.verdict == "NOT APPLICABLE"]
    mandatory = [f for f in findings if f.mandatory and f not in silent]
    if failed := [f for f in mandatory if f.verdict == "FAIL"]:
        return "FAIL", [f"{f.title}: {f.reason}" for f in failed]
    if unclear := [f for f in mandatory if f.verdict != "PASS"]:
        return "INCONCLUSIVE", [f"{f.title}: {f.reason}" for f in unclear]
    if not any(f.about_forgetting for f in mandatory):
        reasons = [f"{f.title}: {f.reason}" for f in silent if f.mandatory]
        return "INCONCLUSIVE", reasons or ["no mandatory check of forgetting was run"]
    reasons = [f"all {len(mandatory)} mandatory checks are within their margins"]
    reasons += [f"does not apply: {f.title}: {f.reason}" for f in silent]
    for verdict, words in (("FAIL", "but failed"), ("INCONCLUSIVE", "without a result")):
        reasons += [f"not mandatory, {words}: {f.title}: {f.reason}" for f in findings if f.verdict == verdict]
    return "PASS", reasons


def together(verdict: Verdict, reasons: list[str], people: Mapping[str, Verdict]) -> tuple[Verdict, list[str]]:
    """The verdict on several people who asked together: no better than that on any of them."""
    if not people or verdict in ("FAIL", "REFUSED"):
        return verdict, reasons
    passed = [label for label, alone in people.items() if alone == "PASS"]
    said = f"{len(passed)} of {len(people)} people pass alone"
    if len(passed) == len(people):
        return verdict, [*reasons, said]
    others = [f"{label}: {alone}" for label, alone in people.items() if alone != "PASS"]
    worst: Verdict = "FAIL" if "FAIL" in people.values() else "INCONCLUSIVE"
    return worst, [f"{said}; {', '.join(others)}", *(reasons if verdict != "PASS" else [])]


def _sentence(measure: Measure, verdict: Verdict) -> str:
    low, high = measure.allowed
    span = f"{measure.interval[0]:.2f} to {measure.interval[1]:.2f}"
    if verdict == "PASS":
        return f"the whole interval, {span}, is within the margin{measure.note}"
    if verdict == "FAIL":
        side = f"above {high:.2f}" if high is not None and measure.value > high else f"below {low:.2f}"
        return f"{measure.value:.2f} is {side}{measure.note}"
    power = "" if measure.power is None else f", and a perfect result would pass with probability {measure.power:.2f}"
    return f"the interval, {span}, reaches beyond the margin: too few records to tell{power}{measure.note}"
