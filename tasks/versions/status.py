"""A line at a glance: person by version as counts, and which version led since when, moved by whom."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from sau.errors import RequestError
from tasks.engines.keys import vault
from tasks.engines.ledger import Ledger, State
from tasks.engines.settings import settings
from tasks.engines.tables import HeldBy
from tasks.engines.workspace import tag_name
from tasks.versions.expiry import expired
from tasks.versions.record import VersionRecord
from tasks.versions.registry import Versions


class VersionStatus(BaseModel):
    """One version: of the people who asked and are or were forgotten, how many it has forgotten and still knows.

    Attributes:
        expired: which request removed its bytes, "" where they are there.
    """

    model_config = ConfigDict(frozen=True)

    tag: str
    verdict: str
    leads: bool
    forgotten: int
    known: int
    expired: str


class Led(BaseModel):
    """When a version began to lead, and who moved the alias: the flow, or a person."""

    model_config = ConfigDict(frozen=True)

    version: str
    at: datetime
    by: str


class Status(BaseModel):
    """A line.

    Attributes:
        requests: counts by state.
        held: the ids of those that a legal hold or a quarantine keeps where they are, by what does.
        purged: how many requests' rows were shredded.
        history: oldest first.
    """

    model_config = ConfigDict(frozen=True)

    line: str
    versions: list[VersionStatus]
    requests: dict[str, int]
    held: dict[str, tuple[str, ...]]
    purged: int
    history: list[Led]


def status(line: str) -> Status:
    """What the stores say of a line.

    Raises:
        RequestError: it has no versions.
        TrackingError: MLflow cannot be asked.
    """
    registry = Versions()
    records = {found.number: found for found in registry.all(line)}
    if not records:
        raise RequestError(f"line {line}: no versions, run `sau bootstrap` first")
    leader = registry.find(line)
    ledger = Ledger(settings().ledger_url)
    requests, held = ledger.list(line), ledger.held(line)
    asked = {r.id for r in requests if r.state in (State.OPEN, State.RUNNING, State.REVIEW, State.FORGOTTEN)}
    counts: dict[str, int] = {}
    for request in requests:
        counts[request.state] = counts.get(request.state, 0) + 1
    versions = []
    for record in records.values():
        done = asked & _carried_out(record, records)
        gone = expired(settings().root, record.tag)
        versions.append(
            VersionStatus(
                tag=record.tag,
                verdict=record.verdict,
                leads=leader is not None and leader.number == record.number,
                forgotten=len(done),
                known=len(asked - done),
                expired=f"removed by {gone.request_id}" if gone else "",
            )
        )
    return Status(
        line=line,
        versions=versions,
        requests=counts,
        held={by.value: tuple(i for i, found in held.items() if found == by) for by in HeldBy},
        purged=sum(vault().state(request.id) == "shredded" for request in requests),
        history=history(line),
    )


def history(line: str) -> list[Led]:
    """Which version led since when, oldest first, from what is written whenever the alias moves.

    A move behind the product's back is written when the next run or `sau doctor` finds it.
    """
    moves = Versions().moves(line)
    return [Led(version=tag_name(line, number), at=datetime.fromisoformat(at), by=by) for at, number, by in moves]


def _carried_out(record: VersionRecord, records: dict[int, VersionRecord]) -> set[str]:
    """The requests of a version and its parents; of one that did not pass, those of its parents alone."""
    done: set[str] = set()
    current: VersionRecord | None = record
    while current:
        if current.may_lead:
            done |= set(current.request_ids)
        current = records.get(current.parent) if current.parent else None
    return done
