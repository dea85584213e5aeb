"""What MLflow's registry says of a line, read without MLflow where its store is local: its import takes seconds."""

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from tasks.engines.settings import settings

if TYPE_CHECKING:
    from tasks.engines.tracking import Tracking

CHAMPION, CANDIDATE = "champion", "candidate"
PRODUCT = ("product", "sau")
"""The tag of a registered model that is this product's."""
_DELETED = "Deleted_Internal"
_WAIT_S = 5.0


@dataclass(frozen=True)
class Registered:
    """A version as MLflow's registry has it."""

    line: str
    number: int
    tags: Mapping[str, str]
    aliases: tuple[str, ...]
    run_id: str
    source: str


class Reader(Protocol):
    """Who can say what the registry has; every method may raise a TrackingError."""

    def registered(self, line: str, number: int | None, *, alias: str) -> Registered | None:
        """A version of a line by number, else by alias; None where there is none."""

    def all_registered(self, line: str) -> list[Registered]:
        """Every version of a line, oldest first."""

    def line_tags(self, line: str) -> Mapping[str, str]:
        """A line's own tags; none where it has no version."""


class Tables:
    """The registry's tables in a local store's SQLite database, opened to be read alone; else MLflow is asked.

    A line is read once, so what is written later is not seen. Whatever is not as expected is left to MLflow: another
    kind of store, other tables, or somebody else's model of that name.
    """

    def __init__(self) -> None:
        self._lines: dict[str, tuple[list[Registered], Mapping[str, str]] | None] = {}

    def registered(self, line: str, number: int | None, *, alias: str) -> Registered | None:
        """As of `Reader`, which this is."""
        if (found := self.line(line)) is None:
            return self._tracking.registered(line, number, alias=alias)
        fits = (entry for entry in found[0] if (alias in entry.aliases if number is None else entry.number == number))
        return next(fits, None)

    def all_registered(self, line: str) -> list[Registered]:
        found = self.line(line)
        return self._tracking.all_registered(line) if found is None else found[0]

    def line_tags(self, line: str) -> Mapping[str, str]:
        found = self.line(line)
        return self._tracking.line_tags(line) if found is None else found[1]

    @cached_property
    def _tracking(self) -> "Tracking":
        from tasks.engines.tracking import Tracking

        return Tracking()

    def line(self, line: str) -> tuple[list[Registered], Mapping[str, str]] | None:
        """A line's versions, oldest first, and tags; None where the tables cannot say."""
        if line not in self._lines:
            try:
                self._lines[line] = self._read(line)
            except (sqlite3.Error, OSError):
                self._lines[line] = None
        return self._lines[line]

    def _read(self, line: str) -> tuple[list[Registered], Mapping[str, str]] | None:
        database = settings().state / "mlflow.db"
        if settings().mlflow_tracking_uri or "MLFLOW_WORKSPACE" in os.environ:
            return None
        if not database.exists():
            return [], {}
        with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True, timeout=_WAIT_S)) as opened:
            opened.execute("begin")  # one state of all tables

            def rows(query: str) -> list[Any]:
                return opened.execute(query, (line,)).fetchall()

            models = rows("select name from registered_models where name = ?")
            line_tags = dict(rows("select key, value from registered_model_tags where name = ?"))
            if len(models) > 1 or (models and PRODUCT not in line_tags.items()):
                return None
            tags: dict[int, dict[str, str]] = {}
            for number, key, value in rows("select version, key, value from model_version_tags where name = ?"):
                tags.setdefault(number, {})[key] = value
            aliases: dict[int, list[str]] = {}
            for number, alias in rows("select version, alias from registered_model_aliases where name = ?"):
                aliases.setdefault(number, []).append(alias)
            versions = rows(
                "select version, run_id, source from model_versions "
                f"where name = ? and current_stage != '{_DELETED}' order by version"
            )
        found = [
            Registered(line, number, tags.get(number, {}), tuple(sorted(aliases.get(number, ()))), run_id or "", source)
            for number, run_id, source in versions
        ]
        return found, line_tags
