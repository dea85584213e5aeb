"""The result of a verification: frozen, JSON-serialisable, without any row's text."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from sau.verify.checks.base import Verdict

FORMAT_VERSION = 2

Margin = tuple[float | None, float | None]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Finding(_Record):
    """One check's result.

    Attributes:
        id: the check, and after a slash the stressor it was repeated under.
        title, question: what is checked, and what the number means, in words.
        n: records (or samples) it rests on.
        value, interval: of the unlearned model; the interval at 1 - 2 alpha, alpha = 1 - confidence.
        before, reference: the same number of the two controls.
        margin: the lowest and highest acceptable value; null where that side is open.
        p: of "no signal", Holm-adjusted over the battery.
        power: chance to pass a model equal to the one that never saw the records.
        verdict, reason: in a sentence.
        rows_read, seconds: what its numbers of all models cost, readings that other checks share included; see
            `sau.verify.evidence.cost`. A stressor's own work is in the seconds only.
    """

    id: str
    title: str
    question: str
    mandatory: bool
    n: int
    value: float | None
    interval: tuple[float, float] | None
    before: float | None
    reference: float | None
    margin: Margin | None
    p: float | None
    power: float | None
    verdict: Verdict
    reason: str
    rows_read: int = 0
    seconds: float = 0.0


class Verification(_Record):
    """The whole result.

    Attributes:
        verdict, reasons: the verdict of the mandatory checks, and why, in sentences.
        weights_digest: of the one model the verdict speaks of.
        num_records: of each set.
        table: model (before, reference, unlearned) -> set (forget, retain, holdout; membership and model for
            metrics over several) -> metric -> value; null where it cannot be had.
        scores: model -> set -> each record's mean log-probability per answer token, sorted: numbers for plots.
        limits: what the verdict does not say.
        rows_read, seconds: the cost of the whole, shared readings counted once.
    """

    format_version: int = FORMAT_VERSION
    verdict: Verdict
    reasons: list[str]
    policy: str
    policy_version: int
    policy_digest: str
    confidence: float
    weights_digest: str
    seed: int
    num_records: dict[str, int]
    checks: list[Finding]
    table: dict[str, dict[str, dict[str, float | None]]]
    scores: dict[str, dict[str, list[float]]]
    limits: list[str]
    rows_read: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain lists, mappings, numbers and strings, ready for `json.dumps`; never NaN."""
        return self.model_dump(mode="json")

    def passes(self, digest: str) -> bool:
        """True where the verdict is PASS and speaks of exactly this model."""
        return self.verdict == "PASS" and self.weights_digest == digest


TableRow = dict[str, dict[str, float | None]]

Table = dict[str, TableRow]

ROLES = {
    "before": "the model before unlearning",
    "reference": "the model that never saw the records",
    "unlearned": "the unlearned model",
}

LIMITS = (
    "A verdict speaks of the checks that ran, on the records given. It does not prove that nothing is left.",
    "Records of one person are not independent of each other: intervals are somewhat too narrow.",
    "Backups, logs and copies of the model outside this pipeline are not covered.",
)
