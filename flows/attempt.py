"""One attempt at a version: the line's lock, a private worktree, an MLflow run."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from filelock import FileLock

from sau.errors import ConfigError
from tasks.engines.ledger import LINE
from tasks.engines.settings import settings
from tasks.engines.tracking import Tracking
from tasks.engines.workspace import Attempt, Workspace

log = logging.getLogger("sau")


def check_line(line: str) -> None:
    """Refuse a name that could not be a file, a git tag and part of an MLflow filter alike.

    Raises:
        ConfigError: malformed.
    """
    if not LINE.match(line):
        raise ConfigError(f"model line: malformed, it has to match {LINE.pattern}")


@contextmanager
def line_lock(line: str) -> Iterator[None]:
    """One attempt per line at a time; a second waits. The lock goes with the process that holds it."""
    check_line(line)
    folder = settings().state / "locks"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / f"{line}.lock"):
        yield


@contextmanager
def attempt(
    kind: str, line: str, *inputs: Any, run_name: str, tags: Mapping[str, str] | None = None
) -> Iterator[Attempt]:
    """A worktree named after everything that goes in, gone at the end, whichever end that is; and a run.

    Only a killed process leaves a worktree behind: the same attempt takes it up where it was, any other sweeps it
    away. What a failed attempt had finished comes back from DVC's run cache, so nothing is lost with the worktree.
    """
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]
    for left in (settings().state / "work").glob(f"{kind}-{line}-{'[0-9a-f]' * 12}"):
        if not left.name.endswith(digest):
            Workspace(left.name).close()
    name = f"{kind}-{line}-{digest}"
    try:
        with Tracking().run(line, run_name, tags=tags) as run_id:
            yield Attempt(line, name, run_id)
    finally:
        Workspace(name).close()
