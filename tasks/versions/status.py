"""A line at a glance: person by version as counts, and which version led since when, moved by whom."""

from collections import Counter
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from sau.errors import RequestError
from tasks.engines.keys import vault
from tasks.engines.ledger import Ledger, State
from tasks.engines.repository import tag_name
from tasks.engines.settings import settings
from tasks.engines.tables import UNANSWERED, HeldBy
from tasks.versions.expiry import all_expired
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
    ledger = Ledger(settings().ledger_url)
    held = ledger.held(line)
    asked = set(ledger.ids(line, (*UNANSWERED, State.FORGOTTEN)))
    done, gone = carried_out_by(records, asked), all_expired(settings().root, line)
    versions = [
        VersionStatus(
            tag=record.tag,
            verdict=record.verdict,
            leads=record.leads,
            forgotten=done[record.number],
            known=len(asked) - done[record.number],
            expired=f"removed by {gone[record.tag].request_id}" if record.tag in gone else "",
        )
        for record in records.values()
    ]
    return Status(
        line=line,
        versions=versions,
        requests=ledger.counts(line),
        held={by.value: tuple(i for i, found in held.items() if found == by) for by in HeldBy},
        purged=len(vault().shredded().intersection(ledger.ids(line))),
        history=history(line),
    )


def history(line: str) -> list[Led]:
    """Which version led since when, oldest first, from what is written whenever the alias moves.

    A move behind the product's back is written when the next run or `sau doctor` finds it.
    """
    moves = Versions().moves(line)
    return [Led(version=tag_name(line, number), at=datetime.fromisoformat(at), by=by) for at, number, by in moves]


def carried_out_by(records: dict[int, VersionRecord], asked: set[str]) -> dict[int, int]:
    """By version, how many of these requests it and its parents have carried out; one that did not pass, its parents
    alone. What a version adds to its parent is counted once, whoever comes after it."""
    own = {n: asked.intersection(record.request_ids) if record.may_lead else set() for n, record in records.items()}
    made_by = Counter(request_id for ids in own.values() for request_id in ids)
    found = {0: 0}
    for number in records:
        chain: list[int] = []  # up to a version that is counted, or was made from none that is here
        current = number
        while current not in found and current in records:
            chain.append(current)
            current = records[current].parent or 0
        above = found.get(current, 0)
        for version in reversed(chain):
            again = {request_id for request_id in own[version] if made_by[request_id] > 1}
            found[version] = above = above + len(own[version]) - len(again & _before(version, records, own, again))
    return found


def _before(number: int, records: dict[int, VersionRecord], own: dict[int, set[str]], wanted: set[str]) -> set[str]:
    """What the parents of a version have carried out; nobody looks where nothing is wanted."""
    done: set[str] = set()
    current = records[number].parent if wanted else None
    while current in own:
        done |= own[current]
        current = records[current].parent
    return done
