"""The ledger: what was asked, when, by when, and how it ended. SQLite in WAL mode, or PostgreSQL by URL.

    open -> running -> forgotten   verdict PASS, the new version is champion
                    -> review      verdict FAIL, INCONCLUSIVE or REFUSED: a candidate exists, a person decides
                    -> open        the attempt failed or died: the next run takes it again
    forgotten -> running           a version that has not carried it out was made champion by hand: it is done again
    open, review -> refused        a person decides, and names the ground
    open -> withdrawn
    After refused or withdrawn the person may ask again, which is a new request.

A legal hold keeps an open, reviewed or forgotten request where it is until its end, a quarantine an open one until a
person has decided: no attempt takes it. Every change is an event that is never changed afterwards, with who decided and
why where a person did (`tasks.engines.decisions`).

An attempt changes states only while it holds its line (`tasks.engines.leases`). The ledger holds the subject's id, so
it is personal data; no other store of the product names the subject: everything else carries the random request id.
"""

import contextlib
import re
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, and_, case, exists, func, null, or_, select, true, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased

from sau.data.people import canonical
from sau.errors import DataError, RequestError
from tasks.engines.database import Database
from tasks.engines.leases import fence
from tasks.engines.tables import (
    STANDING,
    UNANSWERED,
    Event,
    HeldBy,
    Law,
    LineEvent,
    Notice,
    PeopleKey,
    Person,
    Reason,
    Request,
    RowDecision,
    State,
    deadline,
)

REQUEST_ID = re.compile(r"^r-[0-9a-f]{16}\Z")

LINE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")  # `$` would let a newline at the end pass

GIVEN_UP = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\.given-up-\d{8}T\d{6}(-retrain)?\Z")
"""The name of a line that was given up: nothing is begun under it."""

GIVING, GIVEN = "giving up", "given up"
"""Kinds of a line's events: begun, and done."""

LISTED = "list of people taken"
"""The kind of a line's event."""

_HELD_BY = (
    select(Event.kind)
    .where(Event.request_id == Request.id, Event.kind.in_(list(HeldBy)))
    .order_by(Event.id.desc())
    .limit(1)
    .correlate(Request)
    .scalar_subquery()
)
STILL_HELD = case((_HELD_BY == HeldBy.QUARANTINE, null()), else_=Request.held_at)
"""`held_at` of a request that is over: a quarantine ends with the decision it waited for, a legal hold does not."""
_TRIES = 5
T = TypeVar("T")
_AT_ONCE = 500
"""So many people are asked for in one statement."""


def subject_of(given: str) -> str:
    """A person's id as it is compared.

    Raises:
        RequestError: malformed.
    """
    try:
        return canonical(given)
    except DataError as error:
        raise RequestError(f"subject: {error}") from None


class Ledger(Database):
    """Requests by URL of their database.

    Raises:
        RequestError: the database cannot be opened.
    """

    def submit(
        self,
        line: str,
        subject_id: str,
        reason: str = Reason.UNSTATED,
        *,
        received_at: datetime | None = None,
        law: str = Law.GDPR,
        actor: str | None = None,
    ) -> Request:
        """Take a request; one that stands already (in whatever state but withdrawn or refused) is returned instead.

        Whether the subject is in the line's data is the caller's to check, who can see the data.

        Args:
            received_at: when it reached the controller; now where it is not said.
            law: whose deadline.
            actor: who enters it.

        Raises:
            RequestError: a malformed line or subject id, an unknown reason or law, or a receipt in the future.
        """
        subject_id = subject_of(subject_id)
        request = _new_request(line, subject_id, reason, received_at, law)
        try:
            with self.session() as session:
                session.add(request)
                session.flush()
                session.add(Event(request_id=request.id, at=request.updated_at, state=State.OPEN, actor=actor))
            return request
        except IntegrityError:
            standing = self.find(line, subject_id)
            assert standing is not None  # only the unique index can have refused
            return standing

    def submit_all(
        self,
        line: str,
        subject_ids: Iterable[str],
        reason: str = Reason.UNSTATED,
        *,
        received_at: datetime | None = None,
        law: str = Law.GDPR,
        actor: str | None = None,
        note: str = "",
    ) -> "list_of[tuple[Request, bool]]":
        """Take many requests in one transaction, as `submit` takes one; that a list came is an event of the line.

        Args:
            note: what else there was in the list, for that event.

        Returns:
            Each request with whether it is new, in the given order, nobody twice.
        """
        wanted = list_of(dict.fromkeys(map(subject_of, subject_ids)))
        for _ in range(_TRIES):
            standing = self.standing(line, wanted)
            with contextlib.suppress(IntegrityError), self.session() as session:  # somebody asked in between
                new = {
                    subject: _new_request(line, subject, reason, received_at, law)
                    for subject in wanted
                    if subject not in standing
                }
                session.add_all(new.values())
                session.flush()
                at = datetime.now(UTC)
                session.add_all(Event(request_id=r.id, at=at, state=State.OPEN, actor=actor) for r in new.values())
                words = f"{len(new)} requests taken, {len(wanted) - len(new)} stood already{note}"
                session.add(LineEvent(line=line, at=at, kind=LISTED, actor=actor or "", note=words))
                return [(new.get(subject) or standing[subject], subject in new) for subject in wanted]
        raise RequestError(f"line {line}: others take requests of the same people at once; try again")

    def find(self, line: str, subject_id: str) -> Request | None:
        """The subject's standing request on the line."""
        with self.session() as session:
            return session.scalar(
                select(Request).where(Request.line == line, Request.subject_id == subject_of(subject_id), STANDING)
            )

    def get(self, request_id: str) -> Request:
        """One request.

        Raises:
            RequestError: malformed or unknown id.
        """
        if not REQUEST_ID.match(request_id):
            raise RequestError("request id: malformed, it has to look like r-0123456789abcdef")
        with self.session() as session:
            if (request := session.get(Request, request_id)) is None:
                raise RequestError(f"request {request_id}: unknown")
            return request

    def list(self, line: str | None = None, states: Iterable[State] = ()) -> list[Request]:
        """Requests, oldest first."""
        with self.session() as session:
            return list_of(session.scalars(_in_order(select(Request), line, states)))

    def held(self, line: str | None = None) -> dict[str, HeldBy]:
        """What keeps requests where they are, by request id; of those alone that something keeps: found by an index."""
        which = and_(Request.held_at.is_not(None), Request.line == line if line else true())
        query = select(Request.id, Request.state, _HELD_BY.label("kind")).where(which)
        query = query.order_by(Request.line, Request.id)
        with self.session() as session:
            found = {row.id: (row.state, HeldBy(row.kind or HeldBy.LEGAL_HOLD)) for row in session.execute(query)}
        return {key: by for key, (state, by) in found.items() if by != HeldBy.QUARANTINE or state == State.OPEN}

    def ids(self, line: str | None = None, states: Iterable[State] = ()) -> "list_of[str]":
        """The ids alone of what `list` gives: read off an index alone."""
        with self.session() as session:
            return list_of(session.scalars(_in_order(select(Request.id), line, states)))

    def standing(self, line: str, subject_ids: Iterable[str]) -> "dict[str, Request]":
        """The standing requests of these people on a line, by their ids."""
        wanted, found = list_of(map(subject_of, subject_ids)), list_of[Request]()
        with self.session() as session:
            for start in range(0, len(wanted), _AT_ONCE):
                some = Request.subject_id.in_(wanted[start : start + _AT_ONCE])
                found += session.scalars(select(Request).where(Request.line == line, some, STANDING))
        return {request.subject_id: request for request in found}

    def forgotten_before(self, line: str, before: datetime) -> "list_of[str]":
        """The ids of forgotten requests under no hold that have stayed so since before a time, oldest first."""
        later = aliased(Event)
        left = exists().where(later.request_id == Event.request_id, later.id > Event.id, later.state != State.FORGOTTEN)
        query = (
            select(Request.id)
            .join(Event, Event.request_id == Request.id)
            .where(Request.line == line, Request.state == State.FORGOTTEN, Request.held_at.is_(None))
            .where(Event.state == State.FORGOTTEN, ~left)
            .group_by(Request.id, Request.received_at)
            .having(func.min(Event.at) <= before)
            .order_by(Request.received_at, Request.id)
        )
        with self.session() as session:
            return list_of(session.scalars(query))

    def by_deadline(
        self,
        line: str | None,
        states: Iterable[State],
        *,
        limit: int,
        offset: int = 0,
        before: datetime | None = None,
    ) -> "tuple[list_of[Request], int]":
        """Some requests, those due first in front, and how many there are in all.

        Args:
            before: only those due before that.
        """
        wanted = and_(
            Request.state.in_(list_of(states)),
            Request.line == line if line else true(),
            Request.deadline_at < before if before else true(),
        )
        query = select(Request).where(wanted).order_by(Request.deadline_at, Request.id).limit(limit).offset(offset)
        with self.session() as session:
            total = session.scalar(select(func.count()).select_from(Request).where(wanted)) or 0
            return list_of(session.scalars(query)), total

    def counts(self, line: str) -> dict[str, int]:
        """How many requests of a line are in which state."""
        query = select(Request.state, func.count().label("number")).where(Request.line == line).group_by(Request.state)
        with self.session() as session:
            return {row.state: row.number for row in session.execute(query)}

    def oldest(self, line: str, states: Iterable[State]) -> datetime | None:
        """When the oldest request of a line in these states was received; None where there is none."""
        wanted = (Request.line == line) & Request.state.in_(list_of(states))
        with self.session() as session:
            return session.scalar(select(func.min(Request.received_at)).where(wanted))

    def events(self, request_id: str) -> "list_of[tuple[datetime, str]]":
        """(time, state) of every change of state, in order."""
        return [(event.at, event.state) for event in self.history(request_id) if event.kind == "state"]

    def history(self, request_id: str) -> "list_of[Event]":
        """Everything that happened to a request, in order."""
        with self.session() as session:
            return list_of(session.scalars(select(Event).where(Event.request_id == request_id).order_by(Event.id)))

    def move(self, request_id: str, sources: Iterable[State], target: State, **values: Any) -> Request:
        """Change a request's state, only from one of `sources`, with one atomic statement.

        Raises:
            RequestError: unknown id, or in another state.
        """
        moved = self.move_all([request_id], sources, target, **values)
        request = self.get(request_id)
        if not moved:
            allowed = ", ".join(sources)
            raise RequestError(f"request {request_id}: is {request.state}, can become {target} only from {allowed}")
        return request

    def move_all(
        self, request_ids: Iterable[str], sources: Iterable[State], target: State, **values: Any
    ) -> "list_of[str]":
        """Change several requests' state in one transaction.

        Returns:
            The ids of those that were in one of `sources`; the others stay as they are.
        """
        return self._changed(
            Request.id.in_(list_of(request_ids)) & Request.state.in_(list_of(sources)), target, **values
        )

    def _changed(self, which: ColumnElement[bool], target: State, **values: Any) -> "list_of[str]":
        now = datetime.now(UTC)
        statement = update(Request).where(which).values(state=target, updated_at=now, **values).returning(Request.id)
        with self.session() as session:
            fence(session)
            ids = list_of(session.scalars(statement))
            session.add_all(Event(request_id=request_id, at=now, state=target) for request_id in sorted(ids))
        return ids

    def erase_subject(self, request_id: str, instead: str, *, note: str, actor: str | None = None) -> Request:
        """Put a name that says nothing in the place of the person's id, and say so in the request's history.

        Raises:
            RequestError: an unknown request.
        """
        other = Request.subject_id != instead
        self.decide(request_id, other, Event(kind="purged", note=note, actor=actor), subject_id=instead)
        return self.get(request_id)

    def withdraw(self, request_id: str, actor: str | None = None) -> Request:
        """Withdraw an open request.

        Raises:
            RequestError: it is not open any more.
        """
        event = Event(kind="state", actor=actor)
        is_open, target = Request.state == State.OPEN, State.WITHDRAWN
        if not self.decide(request_id, is_open, event, state=target, held_at=STILL_HELD):
            raise RequestError(
                f"request {request_id}: is {self.get(request_id).state}, can become withdrawn only from open"
            )
        return self.get(request_id)

    def decide(
        self,
        request_id: str,
        allowed: ColumnElement[bool],
        event: Event,
        *,
        rows: Iterable[RowDecision] = (),
        **values: Any,
    ) -> bool:
        """Write what a person decided of a request, where it is still allowed: all of it, or nothing.

        Args:
            event: its kind, actor and note; the rest is filled in.
            rows: what was decided of single rows.
            values: what changes of the request.
        """
        now = datetime.now(UTC)
        this = (Request.id == request_id) & allowed
        with self.session() as session:
            changed = update(Request).where(this).values(updated_at=now, **values).returning(Request.state)
            if (state := session.scalar(changed)) is None:
                return False
            event.request_id, event.at, event.state = request_id, now, state
            session.add(event)
            for row in rows:
                row.request_id, row.at, row.actor, row.note = request_id, now, event.actor, event.note
                session.add(row)
        return True

    def decided(self, request_id: str) -> dict[str, RowDecision]:
        """What holds of single rows for a request, by record id."""
        query = select(RowDecision).where(RowDecision.request_id == request_id).order_by(RowDecision.id)
        with self.session() as session:
            return {row.record_id: row for row in session.scalars(query)}

    def note_line(self, line: str, kind: str, actor: str, *, version: int | None = None, note: str = "") -> None:
        """Write down what a person decided of a line."""
        event = LineEvent(line=line, at=datetime.now(UTC), kind=kind, version=version, actor=actor, note=note or None)
        with self.session() as session:
            fence(session)
            session.add(event)

    def line_events(self, line: str) -> "list_of[LineEvent]":
        """What was decided of a line, in order."""
        with self.session() as session:
            return list_of(session.scalars(select(LineEvent).where(LineEvent.line == line).order_by(LineEvent.id)))

    def give_up(self, line: str, name: str, actor: str) -> "list_of[str]":
        """Put everything of a line under another name, for good; nothing changes where one of its requests waits.

        Returns:
            The ids of the requests that wait, or are under a legal hold.
        """
        at, mine = datetime.now(UTC), Request.line == line
        with self.session() as session:
            fence(session)
            waits = select(Request.id).where(mine, or_(Request.state.in_(UNANSWERED), Request.held_at.is_not(None)))
            if waiting := list_of(session.scalars(waits)):
                return waiting
            for request in list_of(session.scalars(select(Request).where(mine))):
                session.add(Event(request_id=request.id, at=at, state=request.state, kind="line given up", actor=actor))
            for table in (Request, Person, PeopleKey, Notice):
                session.execute(update(table).where(table.line == line).values(line=name))
            session.add(LineEvent(line=line, at=at, kind=GIVEN, actor=actor, note=name))
        return []

    def last_notice(self, line: str) -> int | None:
        """The version that recipients were told of last; None where they were told of none."""
        with self.session() as session:
            return session.scalar(select(Notice.version).where(Notice.line == line).order_by(Notice.id.desc()).limit(1))

    def noticed(self, line: str, version: int) -> None:
        """Recipients were told of a version."""
        with self.session() as session:
            session.add(Notice(line=line, version=version, at=datetime.now(UTC)))

    def claim(
        self,
        line: str,
        *,
        retry_review: bool = False,
        lapsed: Iterable[str] = (),
        done: Iterable[str] = (),
        identified: bool = False,
        only: Iterable[str] | None = None,
    ) -> "list_of[Request]":
        """Take all that waits on a line into this attempt, oldest first, with one atomic statement.

        The caller holds the line's lock, so a request still `running` belongs to an attempt that died: it is taken too.

        Args:
            only: of open requests these alone; None: all. The others as for `waiting`.
        """
        looked_at = true() if only is None else or_(Request.state != State.OPEN, Request.id.in_(list_of(only)))
        ids = self._changed(
            _waiting(line, retry_review, lapsed, done, identified) & looked_at,
            State.RUNNING,
            attempts=Request.attempts + 1,
            last_error=None,
        )
        return [request for request in self.list(line, [State.RUNNING]) if request.id in ids]

    def waiting(
        self,
        line: str,
        *,
        retry_review: bool = False,
        lapsed: Iterable[str] = (),
        done: Iterable[str] = (),
        identified: bool = False,
    ) -> "list_of[Request]":
        """What the next attempt on a line would take, oldest first.

        Args:
            retry_review: those in review, too, but for `done`.
            lapsed: ids of forgotten requests that the leading version has not carried out.
            done: ids of requests that it has: what an audit has put into review stays there.
            identified: of open requests only those whose identity somebody confirmed.
        """
        which = _waiting(line, retry_review, lapsed, done, identified)
        query = select(Request).where(which).order_by(Request.received_at, Request.id)
        with self.session() as session:
            return list_of(session.scalars(query))


def _in_order(query: Select[tuple[T]], line: str | None, states: Iterable[State]) -> Select[tuple[T]]:
    """Of these states, all where there are none, and of one line where it is named, oldest first."""
    query = query.order_by(Request.received_at, Request.id)
    if line:
        query = query.where(Request.line == line)
    return query.where(Request.state.in_(wanted)) if (wanted := list(states)) else query


def _new_request(line: str, subject_id: str, reason: str, received_at: datetime | None, law: str) -> Request:
    """An open request, received now where nothing else is said.

    Raises:
        RequestError: see `Ledger.submit`.
    """
    if not LINE.match(line):
        raise RequestError(f"model line: malformed, it has to match {LINE.pattern}")
    for what, value, allowed in (("reason", reason, Reason), ("law", law, Law)):
        if value not in set(allowed):
            raise RequestError(f"{what} {value!r}: has to be one of {', '.join(allowed)}")
    now = datetime.now(UTC)
    received_at = now if received_at is None else received_at.astimezone(UTC)
    if received_at > now:
        raise RequestError(f"received at {received_at:%Y-%m-%d %H:%M} UTC: is in the future")
    return Request(
        id=f"r-{secrets.token_hex(8)}",
        line=line,
        subject_id=subject_id,
        reason=str(reason),
        law=str(law),
        state=State.OPEN,
        received_at=received_at,
        deadline_at=deadline(received_at, law),
        updated_at=now,
        attempts=0,
    )


def _waiting(
    line: str, retry_review: bool, lapsed: Iterable[str], done: Iterable[str], identified: bool
) -> ColumnElement[bool]:
    known = Request.identity_by.is_not(None) if identified else true()
    wanted = {State.RUNNING: true(), State.OPEN: known}
    if ids := list_of(lapsed):
        wanted[State.FORGOTTEN] = Request.id.in_(ids)
    if retry_review:
        wanted[State.REVIEW] = Request.id.not_in(list_of(done))
    which = or_(*(and_(Request.state == state, also) for state, also in wanted.items()))
    # The states once more by themselves: so an index finds them, among however many that are forgotten.
    return and_(Request.line == line, Request.state.in_(list_of(wanted)), Request.held_at.is_(None), which)


list_of = list  # `list` is a method name above
