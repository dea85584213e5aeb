"""SQLite databases of the state folder cleaned: free pages overwritten, the write-ahead log emptied."""

import contextlib
import sqlite3
from pathlib import Path

from tasks.engines.settings import settings


def local_databases() -> list[Path]:
    """The databases below the state folder that are ours to clean: ledger, MLflow, Prefect; DVC's are dropped whole."""
    state = settings().state
    return [path for path in (*sorted(state.glob("*.db")), state / "prefect" / "prefect.db") if path.is_file()]


def clean(database: Path, *, wait_s: float = 20) -> str:
    """Write a database anew without its free pages and empty its log; returns what is left to do, or "".

    Somebody else who has it open may keep old pages in the log; then it is said, and is to be done again.
    """
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=wait_s, isolation_level=None)) as connection:
            connection.execute("PRAGMA secure_delete=ON")
            connection.execute("VACUUM")
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    except sqlite3.Error as error:
        return f"in use or unreadable ({type(error).__name__}): stop what has it open, and run it again"
    if busy:
        return "another process has it open, and its log is not empty: stop it, and run it again"
    log = database.with_name(f"{database.name}-wal")
    if free or (log.is_file() and log.stat().st_size):
        return "its log or free pages are not empty"
    return ""
