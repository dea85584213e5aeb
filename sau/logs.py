"""Logs as JSON lines: what the product says, with line, request ids, flow run and step; never a person's id or text."""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

VARIABLE, JSON = "SAU_LOG_FORMAT", "json"
"""The setting, and its value that asks for this."""

_about: ContextVar[Mapping[str, Any]] = ContextVar("about", default=MappingProxyType({}))
_sources: list[Callable[[], Mapping[str, Any]]] = []


@contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Give what is logged in the block these fields more: ids and names of the product's own, nobody's."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def add_source(source: Callable[[], Mapping[str, Any]]) -> None:
    """Ask `source` for further fields with every line, as whoever runs the steps can say them."""
    _sources.append(source)


class JsonLines(logging.Formatter):
    """A record as one line of JSON; of an exception its kind alone: its words and traceback may quote what was read."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        said = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "message": record.getMessage(),
        }
        for source in _sources:
            said |= source()
        said |= _about.get()
        kind = record.exc_info[0] if record.exc_info else None
        return json.dumps(said | ({"error": kind.__name__} if kind else {}))


def as_json() -> logging.Logger:
    """The product's log, written to stderr as JSON lines from now on, from INFO upwards.

    What a step prints (DEBUG) is left out: a user's own command is one of them.
    """
    logger = logging.getLogger("sau")
    if not any(isinstance(handler.formatter, JsonLines) for handler in logger.handlers):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines())
        handler.setLevel(logging.INFO)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return logger
