"""From measures to findings: numbers rounded for people, tables of metrics, sorted scores."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sau.data.sets import SETS
from sau.errors import SauError
from sau.verify.checks.base import Check, Evidence, Measure, Null, Verdict
from sau.verify.evidence.cost import Cost
from sau.verify.metrics.base import MembershipMetric, Metric, ModelMetric, Readings, RecordMetric, token_means
from sau.verify.record import Finding, Table, TableRow
from sau.verify.stressors.base import Stressor
from sau.verify.verdict import judge


def finding_of(
    check: Check,
    measures: Mapping[str, Measure],
    *,
    stressor: Stressor | None,
    trouble: str,
    applies: bool,
    p: float,
    alpha: float,
    null: Null,
    cost: Cost,
) -> Finding:
    """A check's finding, from its measures of all models.

    Args:
        stressor: what the models had been through, None where they are as stored.
        trouble: what kept the check from being taken; empty where nothing did.
        applies: whether the model before unlearning gives anything away that the check could look for.
        p: of the unlearned model's measure, adjusted for the battery; alpha: 1 - confidence.
        null: what the measures are read against.
        cost: of the check's numbers of all models.
    """
    measure = measures.get("unlearned")
    verdict: Verdict = "INCONCLUSIVE" if applies else "NOT APPLICABLE"
    reason = trouble
    if not trouble:
        verdict, reason = judge(check, measures, p, alpha, null)
    return Finding(
        id=f"{check.id}/{stressor.id}" if stressor else check.id,
        title=f"{check.label} {stressor.title} ({stressor.id})" if stressor else check.label,
        question=check.asks(null),
        mandatory=check.mandatory and (stressor is None or stressor.mandatory),
        n=measure.n if measure else 0,
        value=_number(measure.value) if measure else None,
        interval=_interval(measure.interval) if measure else None,
        before=_number(measures["before"].value) if "before" in measures else None,
        reference=_number(measures["reference"].value) if "reference" in measures else None,
        margin=(_number(measure.allowed[0]), _number(measure.allowed[1])) if measure else None,
        p=_number(p) if measure else None,
        power=_number(measure.power) if measure else None,
        verdict=verdict,
        reason=reason,
        about_forgetting=check.about_forgetting,
        seen=_number(measure.seen) if measure else None,
        alarms=_number(measure.alarms) if measure else None,
        rows_read=cost.rows,
        seconds=round(cost.seconds, 3),
    )


def _number(value: float | None) -> float | None:
    """Rounded for people; None where it is not a number."""
    return round(float(value), 5) if value is not None and np.isfinite(value) else None


def _interval(interval: tuple[float, float]) -> tuple[float, float] | None:
    low, high = map(_number, interval)
    return None if low is None or high is None else (low, high)


def sorted_scores(evidence: Evidence, set_name: str) -> list[float]:
    """Sorted, so that a number no longer points at a record."""
    return [round(float(v), 4) for v in np.sort(token_means(evidence.readings[set_name])) if np.isfinite(v)]


def table_of(metrics: Sequence[Metric], evidence: Mapping[str, Evidence]) -> Table:
    """Every metric of every model; null where it cannot be had (no reference, no false answers, not finite)."""
    return {role: _row(metrics, measured.readings, evidence) for role, measured in evidence.items()}


def _row(metrics: Sequence[Metric], readings: Readings, evidence: Mapping[str, Evidence]) -> TableRow:
    row: TableRow = {name: {} for name in (*SETS, "membership", "model")}

    def others(role: str | None) -> Readings | None:
        return evidence[role].readings if role and role in evidence else None

    for metric in metrics:
        if isinstance(metric, RecordMetric):
            for name in SETS:
                row[name][metric.name] = _or_none(metric.value, readings[name], name)
        elif isinstance(metric, MembershipMetric):
            row["membership"][metric.name] = _or_none(metric.value, readings, others("reference"))
        elif isinstance(metric, ModelMetric):
            row["model"][metric.name] = _or_none(metric.value, readings, others(metric.against))
    return row


def _or_none(compute: Callable[..., float], *args: object) -> float | None:
    try:
        return _number(compute(*args))
    except SauError:
        return None
