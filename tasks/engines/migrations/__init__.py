"""Migrations of the ledger: what alembic does to a database that an earlier version of the product made.

One file per step, named by its revision; `HEAD` is the newest. A new table needs none: it is made where it is missing.
"""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from sau.errors import RequestError

HEAD = "0004"
"""The revision of a ledger that this version of the product makes."""
FIRST = "0001"
"""Of one that was made before there were revisions."""


def revision_of(connection: Connection, tables: set[str]) -> str | None:
    """The revision of a ledger; None of an empty database.

    Args:
        tables: the names of those that are in it.
    """
    if "alembic_version" in tables:
        found = connection.execute(text("select version_num from alembic_version")).scalar()
        if found is not None:
            return str(found)
    return FIRST if "requests" in tables else None


def migrate(connection: Connection, found: str | None) -> None:
    """Bring a ledger from a revision to the newest, in the caller's transaction; an empty database is only marked.

    Raises:
        RequestError: it is of a version of the product that is newer than this one.
    """
    from alembic.migration import MigrationContext  # a quarter of a second: not when there is nothing to do
    from alembic.operations import Operations
    from alembic.script import ScriptDirectory

    folder = str(Path(__file__).parent)
    script = ScriptDirectory(folder, version_locations=[folder])
    known = [step.revision for step in script.walk_revisions()]
    if found is not None and found not in known:
        raise RequestError(
            f"ledger: made by a newer version of the product (its revision is {found!r}, known is {HEAD!r})"
        )
    context = MigrationContext.configure(connection)
    if found is not None:
        context.stamp(script, found)
        with Operations.context(context):
            for step in reversed(list(script.iterate_revisions("head", found))):
                step.module.upgrade()
    context.stamp(script, "head")


def tables_in(connection: Connection) -> set[str]:
    """The names of the tables of a database."""
    return set(inspect(connection).get_table_names())
