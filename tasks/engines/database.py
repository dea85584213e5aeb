"""The ledger's database: SQLite in WAL mode by default, PostgreSQL by URL; its errors as ours."""

import contextlib
import select as ready
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import create_engine, event, func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateIndex, CreateTable

from sau.errors import RequestError
from tasks.engines.migrations import HEAD, migrate, revision_of, tables_in
from tasks.engines.settings import settings
from tasks.engines.tables import Base, Utc

_MAKING = 0x5A0  # PostgreSQL's lock of whoever makes the tables
_NO_ANSWER = "no answer within SAU_DATABASE_WAIT_S"
_WAITING_DRIVERS = ("psycopg", "psycopg2", "pymysql", "mysqldb")


@contextlib.contextmanager
def _mapped(what: str) -> Iterator[None]:
    """The database's errors as ours, without what it was asked: that names people."""
    try:
        yield
    except IntegrityError:
        raise
    except ImportError as error:
        raise RequestError(f"ledger: {what} (Python module {error.name} is not installed)") from None
    except Timeout:
        raise RequestError(f"ledger: {what} (another process has held it for SAU_DATABASE_WAIT_S)") from None
    except (SQLAlchemyError, OSError, ValueError) as error:
        why = _NO_ANSWER if _NO_ANSWER in str(getattr(error, "orig", "")) else type(error).__name__
        raise RequestError(f"ledger: {what} ({why})") from None


def waiting(url: URL, seconds: float) -> dict[str, float]:
    """What a database's driver is told, so that one that is locked or silent is waited for so long; else for ever.

    psycopg2 is told how to wait as well, in all of this process: it would wait for an answer without limit.
    """
    if url.get_backend_name() == "sqlite":
        return {"timeout": seconds}
    if url.get_driver_name() == "psycopg2":
        from psycopg2.extensions import set_wait_callback

        set_wait_callback(_wait_for_postgresql)
    return {"connect_timeout": round(seconds)} if url.get_driver_name() in _WAITING_DRIVERS else {}


def _wait_for_postgresql(connection: Any) -> None:
    """Wait until PostgreSQL has answered: a server that says nothing for SAU_DATABASE_WAIT_S is gone."""
    import psycopg2
    from psycopg2.extensions import POLL_OK, POLL_READ

    while (state := connection.poll()) != POLL_OK:
        poller = ready.poll()
        poller.register(connection.fileno(), ready.POLLIN if state == POLL_READ else ready.POLLOUT)
        if not poller.poll(1000 * settings().database_wait_s):
            raise psycopg2.OperationalError(_NO_ANSWER)


class Database:
    """The tables of a ledger by its URL, made or migrated where that has to be.

    Raises:
        RequestError: the database cannot be opened.
    """

    def __init__(self, url: str) -> None:
        with _mapped("the database cannot be opened, see SAU_DATABASE_URL"):
            parsed = make_url(url)
            is_sqlite = parsed.get_backend_name() == "sqlite"
            if local := is_sqlite and parsed.database:
                Path(local).parent.mkdir(parents=True, exist_ok=True)
            wait_s = settings().database_wait_s
            self.engine = create_engine(parsed, hide_parameters=True, connect_args=waiting(parsed, wait_s))
        if is_sqlite:

            @event.listens_for(self.engine, "connect")
            def _pragmas(connection: Any, _record: Any) -> None:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA foreign_keys=ON")

        # SQLite does not wait for a file that is being made, or changed to WAL: one process at a time.
        first = FileLock(f"{local}.lock", timeout=wait_s) if local else contextlib.nullcontext()
        with _mapped("the database cannot be opened, see SAU_DATABASE_URL"), first:
            self._make()

    def _make(self) -> None:
        """The tables, as this version has them; another process may be making or migrating them."""
        with self.engine.connect() as connection:
            found = tables_in(connection)
            if revision_of(connection, found) == HEAD and found.issuperset(Base.metadata.tables):
                return
        with self.engine.begin() as connection:
            if self.engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # or each statement would be a transaction of its own
            else:
                connection.execute(select(func.pg_advisory_xact_lock(_MAKING)))
            revision = revision_of(connection, tables_in(connection))
            if revision != HEAD:
                migrate(connection, revision)
            for table in Base.metadata.sorted_tables:
                connection.execute(CreateTable(table, if_not_exists=True))
                for index in table.indexes:
                    connection.execute(CreateIndex(index, if_not_exists=True))

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction: committed at its end, rolled back where the block raises."""
        with _mapped("the database failed"), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session


def now(session: Session) -> datetime:
    """The database's own time, to the second: machines need not agree on theirs."""
    return session.execute(select(func.now(type_=Utc))).scalar_one()
