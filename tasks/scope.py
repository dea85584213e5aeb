"""Which rows a request is about: where else in the data the person is, and what somebody decided of single rows."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from sau.data.common_text import CommonText
from sau.data.mentions import guessed_names, mentions
from sau.data.people import people_of
from sau.data.records import Row as Record
from sau.data.records import load_records
from sau.data.shards import as_of, find_records, rows_of, take_out
from sau.errors import RequestError
from tasks.engines import decisions
from tasks.engines.ledger import Ledger, Request
from tasks.engines.people import person_of
from tasks.engines.pins import pins_at
from tasks.engines.settings import settings
from tasks.engines.tables import Row
from tasks.engines.workspace import scratch

log = logging.getLogger("sau")


class Place(BaseModel):
    """A row about somebody else in which the person is.

    Attributes:
        record_id: of the row, as the data has it.
        found_by: see `sau.data.mentions`.
        decision: `forget` or `keep` where somebody decided, else "": such a row is kept.
        text: question and answer, only where they were asked for.
    """

    model_config = ConfigDict(frozen=True)

    record_id: str
    found_by: tuple[str, ...]
    similarity: float
    decision: str = ""
    text: str = ""


class Scope(BaseModel):
    """Where a person is in the data of the leading version.

    Attributes:
        num_own: rows about the person; `kept` of them stay, by a decision; `common` of them are common text.
        num_names, names: guessed from them; the names themselves only where text was asked for.
        num_others: rows about other people that were searched.
        places: those of them in which the person is.
    """

    model_config = ConfigDict(frozen=True)

    request_id: str
    tag: str
    num_own: int
    kept: tuple[str, ...]
    common: tuple[str, ...] = ()
    num_names: int
    names: tuple[str, ...] = ()
    num_others: int
    places: tuple[Place, ...]

    @property
    def undecided(self) -> int:
        """Rows that nobody decided of yet."""
        return sum(not place.decision for place in self.places)


def find(request_id: str, aliases: Iterable[str] = (), *, show_text: bool = False) -> Scope:
    """Look for a request's person in everybody else's rows of the leading version's data.

    Args:
        aliases: other names of the person, which their own rows do not tell.
        show_text: with names and rows.

    Raises:
        RequestError: an unknown request, or one whose person is not in the data (any more).
        WorkspaceError: the data is in neither cache nor remote.
    """
    ledger = Ledger(settings().ledger_url)
    request = ledger.get(request_id)
    decided = {record: row.decision for record, row in ledger.decided(request_id).items()}
    tag, own, others = _rows(request)
    names, by_id = guessed_names(own, others), {row["record_id"]: row for row in others}
    found = [
        Place(
            record_id=mention.record_id,
            found_by=mention.found_by,
            similarity=mention.similarity,
            decision=decided.get(mention.record_id, ""),
            text="{question} {answer}".format(**by_id[mention.record_id]) if show_text else "",
        )
        for mention in mentions(own, others, names, aliases)
    ]
    return Scope(
        request_id=request_id,
        tag=tag,
        num_own=len(own),
        kept=tuple(row["record_id"] for row in own if decided.get(row["record_id"]) == Row.KEEP),
        common=CommonText(others).of(own).record_ids,
        num_names=len(names),
        names=tuple(names) if show_text else (),
        num_others=len(others),
        places=tuple(found),
    )


def decide(
    request_id: str, record_ids: Sequence[str], decision: str, why: str, actor: str, *, ground: str | None = None
) -> Request:
    """Decide of single rows for a request: of other people's to forget or keep them, of their own to keep them.

    Args:
        ground: for which own rows are kept, a partial refusal; needed for those, and for no others.

    Raises:
        RequestError: a row that is not in the data; an own row kept without a ground; all own rows kept; see
            `tasks.engines.decisions`.
    """
    ledger = Ledger(settings().ledger_url)
    request = ledger.get(request_id)
    tag, own_rows, other_rows = _rows(request)
    own, others = ({row["record_id"] for row in rows} for rows in (own_rows, other_rows))
    given = set(record_ids)
    if not given:
        raise RequestError(f"request {request_id}: no row is named")
    if unknown := given - own - others:
        raise RequestError(f"request {request_id}: {len(unknown)} of {len(given)} rows are not in the data of {tag}")
    if decision == Row.KEEP and given & own:
        if ground is None:
            raise RequestError(
                f"request {request_id}: rows of their own are kept only on a ground, see `request refuse`"
            )
        kept = {record for record, row in ledger.decided(request_id).items() if row.decision == Row.KEEP}
        if own <= kept | given:
            raise RequestError(f"request {request_id}: nothing would be left to forget, refuse it as a whole")
    if ground is not None and (decision != Row.KEEP or not given <= own):
        raise RequestError(f"request {request_id}: a ground is for keeping rows of their own, and for no others")
    return decisions.decide_rows(ledger, request_id, sorted(given), decision, why, actor, ground=ground)


def decided_rows(ledger: Ledger, request_ids: Iterable[str]) -> dict[str, dict[str, str]]:
    """What was decided of single rows, by request and record; requests of which nothing was decided are left out."""
    found = {request_id: ledger.decided(request_id) for request_id in request_ids}
    return {
        request_id: {record: row.decision for record, row in sorted(rows.items())}
        for request_id, rows in found.items()
        if rows
    }


def taken_out(ledger: Ledger, train: Path, request_ids: Sequence[str]) -> dict[str, list[Record]]:
    """Take the rows to be forgotten out of an attempt's `data/train`, as was decided; returns them by request.

    Own rows that are kept stay; rows of others that are to be forgotten come as rows of the person. A row of others
    that two requests are to forget goes with the first, one that is gone already with none; one about both with both.

    Raises:
        RequestError: a person is not in the data, or all of their rows are kept.
    """
    decided = decided_rows(ledger, request_ids)
    people = {request_id: person_of(request_id, ledger) for request_id in request_ids}
    own = {request_id: rows_of(train, person) for request_id, person in people.items()}
    if missing := [request_id for request_id, rows in own.items() if not rows]:
        raise RequestError(f"request {missing[0]}: its subject is not in the data of the version that leads")
    wanted = {record for rows in decided.values() for record, decision in rows.items() if decision == Row.FORGET}
    wanted -= {row["record_id"] for rows in own.values() for row in rows}
    others = find_records(train, wanted) if wanted else {}
    found: dict[str, list[Record]] = {}
    gone: list[Record] = []
    for request_id, rows in own.items():
        choice = decided.get(request_id, {})
        going = [row for row in rows if choice.get(row["record_id"]) != Row.KEEP]
        added = [others.pop(record) for record in choice if record in others]
        if not going + added:
            raise RequestError(f"request {request_id}: nothing is left to forget, refuse it as a whole")
        found[request_id] = [as_of(row, people[request_id]) for row in going + added]
        gone += going + added
        if choice:
            kept = len(rows) - len(going)
            log.info("request %s: %d own rows kept, %d rows of others added", request_id, kept, len(added))
    take_out(train, gone)
    return found


def _rows(request: Request) -> tuple[str, list[Record], list[Record]]:
    """The leading version, the person's rows in its data, and everybody else's."""
    from tasks.versions.registry import Registry

    tag = Registry().champion(request.line).tag
    with scratch("scope", tag) as ws:
        ws.point("data", pins_at(settings().root, tag)["data"])
        rows = load_records(ws.path / "data" / "train").to_list()
    person = person_of(request.id)
    own = [row for row in rows if person in people_of(row)]
    if not own:
        raise RequestError(f"request {request.id}: its person is not in the data of {tag}")
    return tag, own, [row for row in rows if person not in people_of(row)]
