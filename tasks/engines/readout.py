"""A server's database read out: every text, JSON and binary value of every table, a few at a time."""

import contextlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Column, LargeBinary, MetaData, Table, Text, cast, create_engine, inspect, select, text
from sqlalchemy.engine import Connection, Inspector, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import Boolean, Date, DateTime, Numeric, Time

from sau.errors import RequestError
from tasks.engines.database import waiting
from tasks.engines.settings import settings

_AT_ONCE = 500
_SAY_NOTHING = (Numeric, Boolean, Date, DateTime, Time)
_DRIVERS = {"postgresql": "postgresql+psycopg2"}


def is_server(url: str) -> bool:
    """Whether a URL is that of a database which is no file here."""
    return bool(url) and "://" in url and not url.startswith(("sqlite", "http", "file"))


def name_of_database(url: str) -> str:
    """A database's name, without the server, the user and the password.

    Raises:
        RequestError: it is no database's URL.
    """
    try:
        return make_url(url).database or ""
    except SQLAlchemyError:
        raise RequestError("database: has to be a URL, such as postgresql://user@server/name") from None


def read_out(url: str) -> Iterator[tuple[str, str, bytes]]:
    """(table, column, content) of all values that may hold a text, from one moment, by a cursor of the server's.

    Values of text and JSON come several at a time, each ended by a zero byte; binary values one by one.

    Args:
        url: an asynchronous driver is replaced by the one that is used here.

    Raises:
        RequestError: the database cannot be read.
    """
    name_of_database(url)
    parsed = make_url(url)
    parsed = parsed.set(drivername=_DRIVERS.get(parsed.get_backend_name(), parsed.drivername))
    try:
        given = waiting(parsed, settings().database_wait_s)
        engine = create_engine(parsed, hide_parameters=True, connect_args=given, isolation_level="REPEATABLE READ")
        with contextlib.closing(engine.connect()) as connection, connection.begin():
            connection.execute(text("SET TRANSACTION READ ONLY"))
            for schema, table in _tables(inspect(connection)):
                known = Table(table, MetaData(), schema=schema, autoload_with=connection)
                for column in known.columns:
                    for content in _column(connection, column):
                        yield table, column.name, content
        engine.dispose()
    except (SQLAlchemyError, ImportError, OSError) as error:
        raise RequestError(f"database {parsed.database}: cannot be read ({type(error).__name__})") from None


def _column(connection: Connection, column: Column[Any]) -> Iterator[bytes]:
    """A column's values; none of one whose type holds no text."""
    if isinstance(column.type, _SAY_NOTHING):
        return
    binary = isinstance(column.type, LargeBinary)
    query = select(column if binary else cast(column, Text)).where(column.is_not(None))
    with connection.execution_options(yield_per=_AT_ONCE).execute(query) as rows:
        together: list[bytes] = []
        for value in rows.scalars():
            if binary:
                yield bytes(value)
                continue
            together.append(value.encode("utf-8", "surrogatepass"))
            if len(together) >= _AT_ONCE:
                yield b"\0".join(together)
                together = []
        yield b"\0".join(together)


def _tables(looked: Inspector) -> Iterator[tuple[str, str]]:
    """(schema, table) of everything that is not the server's own."""
    for schema in looked.get_schema_names():
        if schema != "information_schema" and not schema.startswith("pg_"):
            yield from ((schema, table) for table in looked.get_table_names(schema))
