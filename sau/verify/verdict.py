"""From measures to verdicts. Pure functions; nothing else in the product decides what passes."""

from collections.abc import Mapping, Sequence

from sau.verify.checks.base import Check, Measure, Verdict
from sau.verify.record import Finding


def judge(check: Check, measures: Mapping[str, Measure], p: float, alpha: float) -> tuple[Verdict, str]:
    """A check's verdict and the reason, from the measures of `unlearned` and of the controls `before` and `reference`.

    A check of forgetting has to FAIL the model before unlearning, or it has no power, and to let the model pass that
    never saw the records, or its FAIL would mean nothing. What was to stay is compared with the model before,
    and needs no such controls.

    Args:
        p: of the unlearned model's measure, adjusted for the battery.
        alpha: 1 - confidence.
    """
    measure, before, reference = (measures.get(role) for role in ("unlearned", "before", "reference"))
    if measure is None:
        return "INCONCLUSIVE", "not run"
    verdict = measure.verdict(p, alpha)
    if not check.about_forgetting:
        return verdict, _sentence(measure, verdict)
    if reference is not None and reference.verdict(reference.p, alpha) == "FAIL":
        return "INCONCLUSIVE", "the model that never saw the records fails this check as well"
    if before is not None and before.verdict(before.p, alpha) != "FAIL":
        return "INCONCLUSIVE", "no power: the check does not find the records in the model before unlearning either"
    if verdict == "PASS" and (before is None or reference is None):
        missing = "the model before unlearning" if before is None else "a model that never saw the records"
        return "INCONCLUSIVE", f"no control: {missing} was not measured"
    return verdict, _sentence(measure, verdict)


def conclude(findings: Sequence[Finding]) -> tuple[Verdict, list[str]]:
    """The verdict of the mandatory findings, and why: one FAIL fails, else one that is not PASS is inconclusive.

    Beside a PASS it is said what the policy does not count: a failure, and a check without a result.
    """
    mandatory = [f for f in findings if f.mandatory]
    if failed := [f for f in mandatory if f.verdict == "FAIL"]:
        return "FAIL", [f"{f.title}: {f.reason}" for f in failed]
    if not mandatory:
        return "INCONCLUSIVE", ["no mandatory check was run"]
    if unclear := [f for f in mandatory if f.verdict != "PASS"]:
        return "INCONCLUSIVE", [f"{f.title}: {f.reason}" for f in unclear]
    reasons = [f"all {len(mandatory)} mandatory checks are within their margins"]
    for verdict, words in (("FAIL", "but failed"), ("INCONCLUSIVE", "without a result")):
        reasons += [f"not mandatory, {words}: {f.title}: {f.reason}" for f in findings if f.verdict == verdict]
    return "PASS", reasons


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
