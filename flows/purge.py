"""Purging: what the leading version has forgotten leaves every store, by hand or when the rollback window is over."""

import logging

from flows.attempt import line_lock
from tasks.engines.orchestration import flow, once_for_all_missed
from tasks.engines.settings import settings
from tasks.purge import Purged, check_purge, due
from tasks.purge import purge as purge_request

log = logging.getLogger("sau")


@flow(name="purge", flow_run_name="purge {line}", on_running=[once_for_all_missed])
def purge(line: str, request_ids: tuple[str, ...] = (), by: str = "", after_days: int | None = None) -> list[Purged]:
    """Purge requests of a line: those that are named, else all that are past the rollback window.

    Args:
        by: who decided, where that was a person.
        after_days: the rollback window; default: SAU_PURGE_AFTER_DAYS, and where there is none, nothing is due.

    Raises:
        RequestError: a request that must not be purged; nothing is purged then.
    """
    window = settings().purge_after_days if after_days is None else after_days
    with line_lock(line, "purge"):
        for request_id in request_ids:
            check_purge(request_id)
        named = request_ids or (due(line, window) if window is not None else ())
        policy = "decided by hand" if by else f"rollback window of {window} days"
        return [purge_request(request_id, policy, by) for request_id in named]


def purge_due(line: str) -> list[Purged]:
    """Purge what is past the rollback window that the settings name, as the end of a scheduled run; else nothing."""
    window = settings().purge_after_days
    if window is None or not due(line, window):
        return []
    return purge(line)
