"""One attempt at a version: the line's lock, a private worktree, an MLflow run."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel

from sau.errors import ConfigError
from tasks.engines.ledger import LINE
from tasks.engines.orchestration import current_flow_run, end_flow_run
from tasks.engines.settings import settings
from tasks.engines.tracking import Tracking
from tasks.engines.workspace import Attempt, Workspace, sweep

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
    """One attempt per line at a time; a second waits. The lock goes with the process that holds it.

    Beside the lock lies who holds it; what lies there when the lock is free is of one that died, and Prefect is told.
    """
    check_line(line)
    folder = settings().state / "locks"
    folder.mkdir(exist_ok=True)
    lock, note = FileLock(folder / f"{line}.lock"), folder / f"{line}.json"
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for another attempt on %s (process %s)", line, _read(note).process)
        held = lock.acquire()
    with held:
        dead, own = _read(note).flow_runs, current_flow_run()
        if own:
            for flow_run_id in dead:
                end_flow_run(flow_run_id)
            dead = ()
        _write(note, _Holder(process=os.getpid(), flow_runs=(*dead, own) if own else dead))
        try:
            yield
        finally:
            _write(note, _Holder(flow_runs=dead))


class _Holder(BaseModel):
    """Who holds a line's lock: its process, 0 where nobody does; and flow runs that are to be told of their death."""

    process: int = 0
    flow_runs: tuple[str, ...] = ()


def _read(note: Path) -> _Holder:
    try:
        return _Holder.model_validate_json(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or one that died while it wrote
        return _Holder()


def _write(note: Path, holder: _Holder) -> None:
    note.write_text(holder.model_dump_json(), encoding="utf-8")


@contextmanager
def attempt(
    kind: str, line: str, *inputs: Any, run_name: str, tags: Mapping[str, str] | None = None
) -> Iterator[Attempt]:
    """A worktree named after everything that goes in, gone at the end, whichever end that is; and a run.

    Only a killed process leaves a worktree behind: the same attempt takes it up where it was, any other sweeps it
    away. What a failed attempt had finished comes back from DVC's run cache, so nothing is lost with the worktree.
    """
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]
    name = f"{kind}-{line}-{digest}"
    sweep(kind, line, but=name)
    try:
        with Tracking().run(line, run_name, tags=tags) as run_id:
            yield Attempt(line, name, run_id)
    finally:
        Workspace(name).close()
