"""The tables of the ledger: requests, what happened to them, and what a person decided of single rows; leases of lines.

A new table is made where it is missing, whenever a ledger is opened; a column, or an index that changes, needs a
migration (`tasks.engines.migrations`).
"""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar

from dateutil.relativedelta import relativedelta
from sqlalchemy import DateTime, ForeignKey, Index, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator


class State(StrEnum):
    """States of a request."""

    OPEN = "open"
    RUNNING = "running"
    FORGOTTEN = "forgotten"
    REVIEW = "review"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"


UNANSWERED = (State.OPEN, State.RUNNING, State.REVIEW)
"""States in which the clock runs: the person has no answer yet."""


class HeldBy(StrEnum):
    """What keeps a request where it is: the kind of the event that began it."""

    LEGAL_HOLD = "hold"
    QUARANTINE = "quarantined"

    @property
    def words(self) -> str:
        """As people read it."""
        return "put aside" if self is HeldBy.QUARANTINE else "legal hold"


class Reason(StrEnum):
    """Grounds for erasure, after GDPR Art. 17(1)(a)-(f)."""

    NO_LONGER_NEEDED = "no-longer-needed"
    CONSENT_WITHDRAWN = "consent-withdrawn"
    OBJECTION = "objection"
    UNLAWFUL = "unlawful"
    LEGAL_OBLIGATION = "legal-obligation"
    CHILD = "child"
    UNSTATED = "unstated"


class Law(StrEnum):
    """Which clock runs: one calendar month (GDPR Art. 12(3)) or 45 days (Cal. Civ. Code 1798.130(a)(2)(A))."""

    GDPR = "gdpr"
    CCPA = "ccpa"


def deadline(received: datetime, law: str = Law.GDPR, *, extended: bool = False) -> datetime:
    """By when a request has to be answered.

    GDPR Art. 12(3): one calendar month, three where extended; a day that month lacks becomes its last, 31 Jan -> 28 or
    29 Feb. CCPA: 45 days, 90 where extended.
    """
    if law == Law.CCPA:
        return received + timedelta(days=90 if extended else 45)
    return received + relativedelta(months=3 if extended else 1)


class Utc(TypeDecorator[datetime]):
    """Aware UTC datetimes, also from SQLite, which forgets the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        return value.replace(tzinfo=UTC) if value and value.tzinfo is None else value


class Base(DeclarativeBase):
    """Every table of the ledger."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: Utc}


STANDING = text("state not in ('withdrawn', 'refused')")
"""As the index below has it, word for word: with parameters in their place SQLite would not use it."""

HELD = text("held_at is not null")


class Request(Base):
    """One person's request on one model line.

    Attributes:
        received_at: when it reached the controller, which may be before it was entered here; the clock runs from it.
        deadline_at: see `deadline`.
        extended_at: when the deadline was extended.
        held_at: since when a legal hold or a quarantine keeps anything from being done about it; None where none does.
        identity_by: who confirmed that the person is who they say.
        ground: of a refusal, see `tasks.engines.decisions.Ground`.
    """

    __tablename__ = "requests"

    id: Mapped[str] = mapped_column(primary_key=True)
    line: Mapped[str]
    subject_id: Mapped[str]
    reason: Mapped[str]
    state: Mapped[str]
    received_at: Mapped[datetime]
    deadline_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(default=0)
    last_error: Mapped[str | None]
    version: Mapped[int | None]
    verdict: Mapped[str | None]
    run_id: Mapped[str | None]
    law: Mapped[str] = mapped_column(default="gdpr", server_default="gdpr")
    extended_at: Mapped[datetime | None]
    held_at: Mapped[datetime | None]
    identity_by: Mapped[str | None]
    ground: Mapped[str | None]

    __table_args__ = (
        # The same request twice is one request, also when both arrive at once.
        Index(
            "one_request_per_subject",
            "line",
            "subject_id",
            unique=True,
            sqlite_where=STANDING,
            postgresql_where=STANDING,
        ),
        Index("requests_in_order", "line", "state", "received_at", "id"),
        Index("requests_by_deadline", "state", "deadline_at", "id"),
        Index("requests_held", "line", "id", sqlite_where=HELD, postgresql_where=HELD),
    )

    def days_left(self, now: datetime) -> int | None:
        """Days (UTC) until the day of the deadline, whose end counts; below 0 past it; None where the clock stands."""
        return (self.deadline_at.date() - now.date()).days if self.state in UNANSWERED else None

    def public(self) -> dict[str, Any]:
        """Everything about the request, JSON-ready."""
        row = {column.name: getattr(self, column.name) for column in self.__table__.columns}
        return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in row.items()}


class Event(Base):
    """One thing that happened to a request: a change of state, or what a person decided. Never changed afterwards.

    Attributes:
        state: the request's, after it.
        kind: `state`, or what was decided.
        actor: who decided; None where a flow did.
        note: why, in their words.
    """

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    request_id: Mapped[str] = mapped_column(ForeignKey("requests.id"), index=True)
    at: Mapped[datetime]
    state: Mapped[str]
    kind: Mapped[str] = mapped_column(default="state", server_default="state")
    actor: Mapped[str | None]
    note: Mapped[str | None]


class Row(StrEnum):
    """What a person decided of one row for a request."""

    FORGET = "forget"
    KEEP = "keep"


class RowDecision(Base):
    """One decision of one row; the newest of a row holds, the others stay to be read.

    Attributes:
        decision: of a row about somebody else that names the person: by default it is kept; of their own: forgotten.
        ground: for which an own row is kept, see `tasks.engines.decisions.Ground`.
    """

    __tablename__ = "row_decisions"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    request_id: Mapped[str] = mapped_column(ForeignKey("requests.id"), index=True)
    record_id: Mapped[str]
    decision: Mapped[str]
    ground: Mapped[str | None]
    at: Mapped[datetime]
    actor: Mapped[str | None]
    note: Mapped[str | None]


class Notice(Base):
    """That recipients were told which version leads a line (GDPR Art. 19), by the command of the settings."""

    __tablename__ = "notices"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    line: Mapped[str] = mapped_column(index=True)
    version: Mapped[int]
    at: Mapped[datetime]


class LineEvent(Base):
    """What a person decided of a line as a whole. Never changed afterwards.

    Attributes:
        kind: champion set, version adopted, giving up, or given up.
        version: the number it is about, where it is about one.
        note: of a line that is given up, the name that everything of it gets.
    """

    __tablename__ = "line_events"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    line: Mapped[str] = mapped_column(index=True)
    at: Mapped[datetime]
    kind: Mapped[str]
    version: Mapped[int | None]
    actor: Mapped[str]
    note: Mapped[str | None]


class PeopleKey(Base):
    """A line's key for the digests of its people, see `tasks.engines.people`."""

    __tablename__ = "people_keys"

    line: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str]


class Person(Base):
    """One person of a line: the keyed digest of the id that its users know, and the id that its data sets have."""

    __tablename__ = "people"

    line: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(primary_key=True)
    internal_id: Mapped[str]


class LeaseRow(Base):
    """Who holds a line; `holder` is "" where nobody does. `flow_runs` are Prefect's, to be told of their death."""

    __tablename__ = "leases"

    line: Mapped[str] = mapped_column(primary_key=True)
    token: Mapped[int]
    holder: Mapped[str]
    purpose: Mapped[str]
    machine: Mapped[str]
    process: Mapped[int]
    begun: Mapped[float]
    flow_runs: Mapped[str]
    expires_at: Mapped[datetime]


class StoreRow(Base):
    """The name of this database: what its leases exclude is tagged with it elsewhere."""

    __tablename__ = "store"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
