"""The result of a verification: frozen, JSON-serialisable, without any row's text."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from sau.verify.checks.base import Null, Verdict

FORMAT_VERSION = 3

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
        seen, alarms: share of the people who stay that would FAIL in the place of the one who asked, and of those whom
            the model never saw; null where they are not what the check is read against.
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
    about_forgetting: bool = True
    seen: float | None = None
    alarms: float | None = None
    rows_read: int = 0
    seconds: float = 0.0


class PersonVerdict(_Record):
    """What was found of one of several people who asked together.

    Attributes:
        label: the caller's name for the request, or a number; never who it is.
        num_records: the rows of the person.
    """

    label: str
    num_records: int
    verdict: Verdict
    reasons: list[str]
    checks: list[Finding]


class Verification(_Record):
    """The whole result.

    Attributes:
        verdict, reasons: the verdict of the mandatory checks, and why, in sentences.
        weights_digest: of the one model the verdict speaks of.
        null: what the checks of forgetting are read against.
        num_records, num_people: of each set.
        table: model (before, reference, unlearned) -> set (forget, retain, holdout; membership and model for
            metrics over several) -> metric -> value; null where it cannot be had.
        scores: model -> set -> each record's mean log-probability per answer token, sorted: numbers for plots.
        people: each of several people who asked together, judged alone; empty where one asked, or the null is a
            retrained model.
        earlier: each who was forgotten earlier on the line, by `Policy.for_earlier`, judged again on this model.
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
    null: Null
    num_records: dict[str, int]
    num_people: dict[str, int]
    checks: list[Finding]
    table: dict[str, dict[str, dict[str, float | None]]]
    scores: dict[str, dict[str, list[float]]]
    limits: list[str]
    people: list[PersonVerdict] = []
    earlier: list[PersonVerdict] = []
    rows_read: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain lists, mappings, numbers and strings, ready for `json.dumps`; never NaN."""
        return self.model_dump(mode="json")

    @property
    def judged_against(self) -> str:
        """The null in words."""
        if self.null == "retrained":
            return "a model retrained without the records"
        return f"{self.num_people['holdout']} people the model never saw"

    def with_earlier(self, earlier: list[PersonVerdict]) -> "Verification":
        """The same with what was found of those who were forgotten earlier: nobody may be known again."""
        if not earlier:
            return self
        known = [person.label for person in earlier if person.verdict == "FAIL"]
        said = f"{len(earlier)} who were forgotten earlier are judged again: {len(known)} known again"
        said += f", {', '.join(known)}" if known else ""
        changes: dict[str, Any] = {"earlier": earlier, "reasons": [*self.reasons, said]}
        if known and self.verdict != "REFUSED":
            failed = self.reasons if self.verdict == "FAIL" else []
            changes |= {"verdict": "FAIL", "reasons": [said, *failed]}
        return self.model_copy(update=changes)

    def with_limit(self, said: str) -> "Verification":
        """The same with one more sentence on what it does not say."""
        return self.model_copy(update={"limits": [*self.limits, said]})

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

LIMITS: dict[Null, tuple[str, ...]] = {
    "population": (
        "A verdict speaks of the checks that ran, on the records given. It does not prove that nothing is left.",
        "The null is people whom the model never saw. Facts that others' records tell as well count as known, and a "
        "person unlike all of those people is judged by the wrong ones.",
        "Backups, logs and copies of the model outside this pipeline are not covered.",
    ),
    "retrained": (
        "A verdict speaks of the checks that ran, on the records given. It does not prove that nothing is left.",
        "Records of one person are not independent of each other: intervals are somewhat too narrow.",
        "Backups, logs and copies of the model outside this pipeline are not covered.",
    ),
}
