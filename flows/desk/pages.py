"""What the desk's pages show: gathered from ledger, registry and records, each store for itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sau.certificate.letter import languages, letter
from sau.errors import CertificateError, RequestError, TrackingError
from sau.verify import Verification
from sau.verify.report.words import COLUMNS, HEADLINES, filled, finding_words, headline
from tasks.certify import latest
from tasks.engines.decisions import APPROVED, GROUNDS, RELEASED, approvers, put_aside
from tasks.engines.ledger import Ledger, Request
from tasks.engines.settings import settings
from tasks.engines.tables import UNANSWERED, Event, HeldBy, State
from tasks.engines.tracking import Tracking
from tasks.notices import notices_of
from tasks.requests import Due, due, in_force
from tasks.verify import RECORD
from tasks.versions.lineage import chain
from tasks.versions.record import VersionRecord
from tasks.versions.registry import Registry

PER_PAGE = 50

STATES = {
    State.OPEN: "waits for the next run",
    State.RUNNING: "is being carried out",
    State.REVIEW: "was tried, and a person has to decide",
    State.FORGOTTEN: "is carried out",
    State.REFUSED: "was refused",
    State.WITHDRAWN: "was withdrawn",
}
EVENTS = {
    "extended": "deadline extended",
    HeldBy.LEGAL_HOLD: "legal hold",
    HeldBy.QUARANTINE: "put aside, for a person to look at",
    RELEASED: "let go on",
    "identity": "identity confirmed",
    "told": "recipient told",
    APPROVED: "purge approved",
    "rows forget": "rows to be forgotten",
    "rows keep": "rows to be kept",
}
_SHOWN = ("check", "n", "value", "before", "seen", "alarms", "margin", "verdict")


def ledger() -> Ledger:
    """The ledger that the settings name."""
    return Ledger(settings().ledger_url)


@dataclass(frozen=True)
class Item:
    """A request in the inbox, with how it stands to its deadline."""

    request: Request
    days_left: int | None
    due: Due

    @classmethod
    def of(cls, request: Request, now: datetime) -> "Item":
        return cls(request, request.days_left(now), due(request, now))

    @property
    def left(self) -> str:
        """In words."""
        if self.days_left is None:
            return "answered"
        if not self.days_left:
            return "due today"
        if self.days_left < 0:
            return f"{-self.days_left} day{'s' * (self.days_left != -1)} overdue"
        return f"{self.days_left} day{'s' * (self.days_left != 1)} left"


def inbox(line: str, show: str, page: int) -> dict[str, Any]:
    """A page of requests, the most urgent first.

    Args:
        line: only of this line, "" for all.
        show: waiting, all, or a state.
    """
    states = UNANSWERED if show == "waiting" else tuple(State) if show == "all" else (State(show),)
    now, store = datetime.now(UTC), ledger()
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    rows, total = store.by_deadline(line or None, states, limit=PER_PAGE, offset=(page - 1) * PER_PAGE)
    return {
        "items": [Item.of(row, now) for row in rows],
        "total": total,
        "pages": max(1, -(-total // PER_PAGE)),
        "page": page,
        "line": line,
        "show": show,
        "held": (held := store.held(line or None)),
        "aside": put_aside(held),
        "late": store.by_deadline(line or None, UNANSWERED, limit=0, before=today)[1],
    }


@dataclass(frozen=True)
class Step:
    """A version as one person sees it: whether it was made without them."""

    record: VersionRecord
    without: bool
    made_for: bool


def request_page(request: Request) -> dict[str, Any]:
    """Everything of one request; what MLflow cannot say is left out, and said to be."""
    found: dict[str, Any] = {
        "item": Item.of(request, datetime.now(UTC)),
        "history": ledger().history(request.id),
        "rows": ledger().decided(request.id),
        "grounds": GROUNDS[request.law],
        "state_words": STATES[State(request.state)],
        "in_force": None,
        "steps": [],
        "verdict": None,
        "certificate": None,
        "languages": languages(),
        "notices": notices_of(request),
        "missing": "",
        "held_by": ledger().held(request.line).get(request.id),
        "approvers": sorted(approvers(ledger(), request.id)),
        "purge_people": settings().purge_people,
    }
    try:
        found["in_force"] = in_force([request]).get(request.id)
        found["steps"] = _steps(request)
        if request.version:
            found["verdict"] = verdict_of(Registry().get(request.line, request.version), request.id)
    except (TrackingError, RequestError) as error:
        found["missing"] = str(error)
    try:
        found["certificate"] = latest(request.id)
    except (RequestError, CertificateError) as error:
        found["no_certificate"] = str(error)
    return found


def _steps(request: Request) -> list[Step]:
    """The line's versions, newest first, and which of them were made without the person."""
    records = Registry().all(request.line)
    without: dict[int, bool] = {}
    for record in records:
        before = without.get(record.parent or 0, False)
        without[record.number] = before or request.id in record.request_ids
    leader = Registry().find(request.line)
    led = {leader.number: leader} if leader else {}
    return [
        Step(led.get(record.number, record), without[record.number], request.id in record.request_ids)
        for record in reversed(records)
    ]


def verdict_of(record: VersionRecord, request_id: str = "") -> dict[str, Any]:
    """A version's verdict in words, and what was checked; of one person alone where several asked together."""
    if not record.policy:
        return {"verdict": record.verdict, "headline": HEADLINES[record.verdict], "reasons": [], "checks": []}
    read = Verification.model_validate_json(Tracking().artifact(record.judged_in, RECORD))
    alone = next((person for person in read.people if person.label == request_id), None)
    findings = alone.checks if alone else read.checks
    columns = {name: COLUMNS[name] for name in filled(COLUMNS, findings) if name in _SHOWN}
    return {
        "verdict": alone.verdict if alone else read.verdict,
        "headline": HEADLINES[alone.verdict] if alone else headline(read),
        "reasons": alone.reasons if alone else read.reasons,
        "against": record.against,
        "policy": record.policy,
        "columns": columns,
        "checks": [finding_words(finding) | {"verdict": finding.verdict} for finding in findings],
    }


def version_page(line: str, number: int) -> dict[str, Any]:
    """A version, whom it was made for, what it came from and what came of it."""
    registry = Registry()
    record = registry.get(line, number)
    return {
        "record": record,
        "chain": chain(line, number),
        "children": [other for other in registry.all(line) if other.parent == number],
        "verdict": verdict_of(record),
    }


def lines() -> dict[str, list[VersionRecord]]:
    """Every line's versions, newest first."""
    registry, found = Registry(), {}
    for line in registry.tracking.lines():
        if records := registry.all(line):
            found[line] = records[::-1]
    return found


def letter_to(request_id: str, language: str, *, html: bool) -> str:
    """The letter to the person, from the signed record.

    Raises:
        RequestError: no record was signed.
        ConfigError: no such language.
    """
    entry = latest(request_id)
    return letter(entry.evidence, entry.digest, language=language, html=html)


def told(events: Sequence[Event]) -> list[dict[str, str]]:
    """A history in words."""
    return [
        {
            "at": f"{event.at:%Y-%m-%d %H:%M}",
            "what": event.state if event.kind == "state" else EVENTS.get(event.kind, event.kind),
            "by": event.actor or "the pipeline",
            "note": event.note or "",
        }
        for event in events
    ]
