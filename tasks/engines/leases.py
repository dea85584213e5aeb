"""Leases: one attempt per line at a time, on whichever machine; whoever has lost its line may write no more.

A lease is a row of the ledger's database with a token that grows each time the line changes hands (a fencing token). A
thread renews it while its process lives. It is free once its holder gave it back, has not renewed it for SAU_LEASE_S
seconds by the database's own clock, or was a process of this machine that is no more. Every write of an attempt asks
`fence` first, and what it asks is the same transaction where it is the ledger that is written. MLflow and git cannot
compare tokens: between their write and the question lies a moment, and the lease has just been renewed for it.
"""

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import psutil
from sqlalchemy import or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from sau.errors import LeaseError, SauError
from tasks.engines.database import Database, now
from tasks.engines.tables import Base, LeaseRow, StoreRow

_RENEWALS = 4
"""How often within its time a lease is renewed."""
_CLOCKS_DIFFER_S = 60.0
"""So far may two readings of when one process began lie apart."""


@dataclass(frozen=True)
class Process:
    """A process of some machine: a number says nothing without when it began, and where."""

    machine: str
    number: int
    begun: float

    @classmethod
    def own(cls) -> "Process":
        return cls(_machine(), os.getpid(), psutil.Process().create_time())

    @property
    def died(self) -> bool:
        """Whether it is known to be no more; of another machine's nothing is known."""
        if self.machine != _machine():
            return False
        try:
            return abs(psutil.Process(self.number).create_time() - self.begun) > _CLOCKS_DIFFER_S
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False

    @property
    def words(self) -> str:
        return f"process {self.number} on {self.machine.split()[0]}"


def _machine() -> str:
    """This host and its space of process numbers, so that containers of one name are not taken for each other."""
    with contextlib.suppress(OSError):
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


@dataclass(frozen=True)
class Lease:
    """A line that this process holds.

    Attributes:
        line, token: what is held, and which holding of it this is, counted from 1.
        dead_flow_runs: ids of Prefect's runs of holders before that nobody has told of their death.
    """

    line: str
    token: int
    holder: str
    dead_flow_runs: tuple[str, ...]
    seconds: float
    database: Database = field(repr=False)

    def renew(self, session: Session) -> bool:
        """Hold it for its whole time from now; False where another has it."""
        mine = (LeaseRow.line == self.line) & (LeaseRow.token == self.token) & (LeaseRow.holder == self.holder)
        until = now(session) + timedelta(seconds=self.seconds)
        renewed = update(LeaseRow).where(mine).values(expires_at=until).returning(LeaseRow.line)
        return session.scalar(renewed) is not None

    def give_back(self, flow_runs: tuple[str, ...]) -> None:
        """Free it, if it is still ours, and leave whom Prefect is still to be told of."""
        mine = (LeaseRow.line == self.line) & (LeaseRow.token == self.token) & (LeaseRow.holder == self.holder)
        with self.database.session() as session:
            session.execute(update(LeaseRow).where(mine).values(holder="", flow_runs=" ".join(flow_runs)))

    @property
    def lost(self) -> LeaseError:
        return LeaseError(
            f"line {self.line}: this attempt stood still for more than {self.seconds:.0f} s and another one has taken "
            "the line; nothing more was written"
        )


_held: list[Lease] = []
"""What this process holds; a process is one attempt."""


def fence(session: Session | None = None) -> None:
    """Refuse to go on where this process has lost a line; asks nothing where it holds none.

    Args:
        session: the transaction of the write that is about to be made, where that is the ledger's.

    Raises:
        LeaseError: another attempt has the line.
        RequestError: the database cannot be asked.
    """
    for lease in tuple(_held):
        if session is not None:
            kept = lease.renew(session)
        else:
            with lease.database.session() as own:
                kept = lease.renew(own)
        if not kept:
            raise lease.lost


def take(database: Database, line: str, purpose: str, *, seconds: float) -> Lease | str:
    """The line's lease, or in words who holds it.

    Raises:
        RequestError: the database cannot be asked.
    """
    nobody = LeaseRow(
        line=line, token=0, holder="", purpose="", machine="", process=0, begun=0.0, flow_runs="",
        expires_at=datetime.fromtimestamp(0, UTC),
    )  # fmt: skip
    _add_once(database, nobody, line)
    me = Process.own()
    with database.session() as session:
        at, row = now(session), session.get_one(LeaseRow, line)
        held_by, purpose_then = Process(row.machine, row.process, row.begun), row.purpose if row.holder else ""
        free = or_(LeaseRow.holder == "", LeaseRow.expires_at <= at)
        if row.holder and held_by.died:
            free = or_(free, LeaseRow.holder == row.holder)
        lease = Lease(line, row.token + 1, secrets.token_hex(8), tuple(row.flow_runs.split()), seconds, database)
        taken = (
            update(LeaseRow)
            .where((LeaseRow.line == line) & (LeaseRow.token == row.token) & free)
            .values(
                token=lease.token,
                holder=lease.holder,
                purpose=purpose,
                machine=me.machine,
                process=me.number,
                begun=me.begun,
                expires_at=at + timedelta(seconds=seconds),
            )
            .returning(LeaseRow.token)
            .execution_options(synchronize_session=False)
        )
        if session.scalar(taken) is None:
            return f"{purpose_then} ({held_by.words})" if purpose_then else "another attempt"
    return lease


@dataclass(frozen=True)
class Held:
    """The last holding of a line.

    Attributes:
        purpose: forget, audit, doctor and so on.
        at: when it was last renewed, to within the time of a lease.
        now: whether it goes on; of a process that is seen to have died it does not.
    """

    purpose: str
    at: datetime
    now: bool


def last_held(database: Database, line: str, *, seconds: float) -> Held | None:
    """Who held a line last; None where nobody ever did.

    Args:
        seconds: of a lease.
    """
    with database.session() as session:
        if (row := session.get(LeaseRow, line)) is None or not row.token:
            return None
        at = row.expires_at - timedelta(seconds=seconds)
        held = bool(row.holder) and row.expires_at > now(session)
        return Held(row.purpose, at, held and not Process(row.machine, row.process, row.begun).died)


def _add_once(database: Database, row: Base, key: object) -> None:
    """Add a row where none of its key is there."""
    with database.session() as session:
        if session.get(type(row), key) is not None:
            return
    with contextlib.suppress(IntegrityError), database.session() as session:  # another process may be first
        session.add(row)


@contextlib.contextmanager
def holding(lease: Lease, on_loss: Callable[[], None]) -> Iterator[None]:
    """Renew a lease while the block runs; giving it back is the caller's.

    Args:
        on_loss: called by the thread that renews, once, where another has taken the line.
    """
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(lease.seconds / _RENEWALS):
            with contextlib.suppress(SauError), lease.database.session() as session:  # asked again in a moment
                if not lease.renew(session):
                    on_loss()
                    return

    thread = threading.Thread(target=renew, name=f"lease of {lease.line}", daemon=True)
    _held.append(lease)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _held.remove(lease)


def note_flow_runs(lease: Lease, flow_runs: tuple[str, ...]) -> None:
    """Keep beside a lease the ids of Prefect's runs that are to be told of their death, should this process die."""
    with lease.database.session() as session:
        fence(session)
        session.execute(update(LeaseRow).where(LeaseRow.line == lease.line).values(flow_runs=" ".join(flow_runs)))


def name_of(database: Database) -> str:
    """A random name of this database, made on first use."""
    _add_once(database, StoreRow(id=1, name=secrets.token_hex(8)), 1)
    with database.session() as session:
        return session.scalars(select(StoreRow.name)).one()
