"""What the product uses of Prefect."""

import contextlib
from uuid import UUID

import httpx
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterParentFlowRunId
from prefect.events import emit_event
from prefect.exceptions import PrefectException
from prefect.futures import as_completed
from prefect.runtime import flow_run
from prefect.states import Crashed, State
from prefect.task_runners import ThreadPoolTaskRunner

__all__ = [
    "NO_CACHE",
    "ThreadPoolTaskRunner",
    "as_completed",
    "create_markdown_artifact",
    "current_flow_run",
    "emit_event",
    "end_flow_run",
    "flow",
    "task",
]


def current_flow_run() -> str:
    """The id of the flow run that this is part of, "" outside any."""
    return str(flow_run.id or "")


def end_flow_run(flow_run_id: str) -> None:
    """Say in Prefect that a flow run whose process died has crashed, and so have the runs below it.

    A server that does not know it, or does not answer, changes nothing: Prefect decides nothing.
    """
    ids = [UUID(flow_run_id)]
    died: State[None] = Crashed(message="its process died")
    with contextlib.suppress(PrefectException, httpx.HTTPError), get_client(sync_client=True) as client:
        below = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=ids))
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=ids)))
        for run in [*runs, *client.read_flow_runs(flow_run_filter=below)]:
            if run.state and not run.state.is_final():
                client.set_flow_run_state(run.id, died, force=True)
