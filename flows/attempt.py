"""One attempt at a version: the line's lease, a private worktree, an MLflow run."""

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flows.servers import prefect_server
from sau.errors import ConfigError, TrackingError
from sau.logs import about
from tasks.engines.leases import holding, note_flow_runs, take
from tasks.engines.ledger import GIVEN_UP, LINE, Ledger, State
from tasks.engines.orchestration import current_flow_run, end_flow_runs
from tasks.engines.pins import end_children
from tasks.engines.settings import settings
from tasks.engines.tracking import Tracking
from tasks.engines.workspace import Attempt, Workspace, take_up

log = logging.getLogger("sau")

_ASK_S = 1.0
"""So often a second attempt asks whether the line is free."""


def check_line(line: str) -> None:
    """Refuse a name that could not be a file, a git tag and part of an MLflow filter alike.

    Raises:
        ConfigError: malformed.
    """
    if not LINE.match(line):
        raise ConfigError(f"model line: malformed, it has to match {LINE.pattern}")


@contextmanager
def line_lock(line: str, purpose: str = "an attempt") -> Iterator[None]:
    """One attempt per line at a time, on whichever machine; a second waits, and says for whom.

    Where this process stands still for so long that another one takes the line, nothing that it writes is taken.

    Args:
        purpose: what a second one is told that it waits for.

    Raises:
        ConfigError: a malformed line.
        LeaseError: another attempt has the line now.
    """
    with about(line=line), _lease(line, purpose):
        yield


@contextmanager
def _lease(line: str, purpose: str) -> Iterator[None]:
    if not GIVEN_UP.match(line):  # of which there are still rows to purge
        check_line(line)
    ledger = Ledger(settings().ledger_url)
    said = ""
    while isinstance(lease := take(ledger, line, purpose, seconds=settings().lease_s), str):
        if lease != said:
            ids = [request.id for request in ledger.list(line, [State.RUNNING])]
            log.info("%s is held by %s%s: waiting", line, lease, f", {' '.join(ids)}" * bool(ids))
            said = lease
        time.sleep(_ASK_S)
    with holding(lease, on_loss=end_children):
        left, own = lease.dead_flow_runs, current_flow_run()
        if own:
            note_flow_runs(lease, (*left, own))
        if left and _told_of_death(left):
            left = ()
            note_flow_runs(lease, (own,) if own else ())
        try:
            yield
        finally:
            lease.give_back(left)


def _told_of_death(flow_runs: tuple[str, ...]) -> bool:
    """Say in Prefect that these have crashed; False where outside a flow no server could be started for it."""
    if current_flow_run():
        end_flow_runs(flow_runs)
        return True
    try:
        with prefect_server() as api:
            end_flow_runs(flow_runs, api)
    except (TrackingError, OSError):  # such as no room for its log: the next one tells
        return False
    return True


@contextmanager
def attempt(
    kind: str, line: str, *inputs: Any, run_name: str, tags: Mapping[str, str] | None = None
) -> Iterator[Attempt]:
    """A worktree named after everything that goes in, gone at the end and where a step fails; and a run.

    Only a process that was killed or told to end leaves a worktree behind: the same attempt takes it up where it was,
    in the middle of a step too; any other sweeps it away; one that only stands still keeps it. What a failed attempt
    had finished comes back from DVC's run cache, so nothing is lost with the worktree.
    """
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]
    name = take_up(kind, line, digest)
    try:
        with Tracking().run(line, run_name, tags=tags) as run_id:
            yield Attempt(line, name, run_id)
    except Exception:
        Workspace(name).close()
        raise
    Workspace(name).close()
