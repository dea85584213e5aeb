"""A state folder that was moved or copied: MLflow's local store knows its files by whole paths, which are put right.

MLflow has no call for it. Without it a moved store has lost its files, and a copy reads and writes the original's.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)
"""Tables and columns that hold paths of files."""


def put_right(database: Path, artifacts: Path) -> list[str]:
    """Name the files of a local store where they are now, in one transaction; returns the folders they were in before.

    Args:
        database: the store's; one that is not there is not made.
        artifacts: its folder of files, with a folder per experiment.

    Raises:
        sqlite3.Error: it cannot be read or written.
    """
    if not database.is_file():
        return []
    with closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as opened:
        if not opened.execute("select 1 from sqlite_master where name = 'experiments'").fetchall():
            return []
        named = opened.execute("select artifact_location from experiments").fetchall()
        places = [Path(place) for (place,) in named if place]
        moved = {str(place.parent) for place in places if (artifacts / place.name).is_dir()} - {str(artifacts)}
        if moved:
            opened.execute("begin immediate")
            for before in moved:
                for table, column in _PLACES:
                    opened.execute(
                        f"update {table} set {column} = ? || substr({column}, ?) where substr({column}, 1, ?) = ?",
                        (str(artifacts), len(before) + 1, len(before) + 1, f"{before}/"),
                    )
            opened.execute("commit")
    return sorted(moved)
