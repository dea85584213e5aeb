"""What the product uses of Prefect."""

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event
from prefect.exceptions import PrefectException
from prefect.futures import as_completed
from prefect.runtime import flow_run as this_flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Crashed, State
from prefect.task_runners import ThreadPoolTaskRunner

from sau.logs import add_source

__all__ = [
    "NO_CACHE",
    "ThreadPoolTaskRunner",
    "as_completed",
    "create_markdown_artifact",
    "current_flow_run",
    "emit_event",
    "end_flow_runs",
    "flow",
    "once_for_all_missed",
    "task",
]


def current_flow_run() -> str:
    """The id of the flow run that this is part of, "" outside any."""
    return str(this_flow_run.id or "")


def _running() -> dict[str, str]:
    """The flow run and step that this is part of, for a log's line."""
    flow_run, step = FlowRunContext.get(), TaskRunContext.get()
    found = {"flow_run": str(flow_run.flow_run.id)} if flow_run and flow_run.flow_run else {}
    return found | ({"step": step.task_run.name} if step else {})


add_source(_running)


def end_flow_runs(flow_run_ids: Sequence[str], api: str = "") -> None:
    """Say in Prefect that flow runs whose process died have crashed, and so have the runs below them.

    A server that does not know them, or does not answer, changes nothing: Prefect decides nothing.

    Args:
        api: the server's address; that of the flow this is part of where none is given.
    """
    ids = [UUID(flow_run_id) for flow_run_id in flow_run_ids]
    died: State[None] = Crashed(message="its process died")
    with (
        contextlib.suppress(PrefectException, httpx.HTTPError),
        temporary_settings({PREFECT_API_URL: api} if api else {}),
        get_client(sync_client=True) as client,
    ):
        below = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=ids))
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=ids)))
        for run in [*runs, *client.read_flow_runs(flow_run_filter=below)]:
            if run.state and not run.state.is_final():
                client.set_flow_run_state(run.id, died, force=True)


def once_for_all_missed(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """A hook of a flow that begins: what its deployment's schedule has missed (no worker was there, the run before took
    longer than the time between two) is done by this run, and cancelled.

    Late runs with other parameters, and those that somebody asked for by hand, keep their place.
    """
    if flow_run.deployment_id is None:
        return
    waiting = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[flow_run.deployment_id]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
    )
    done: State[None] = Cancelled(message=f"missed, and done by {flow_run.name} ({flow_run.id})")
    with get_client(sync_client=True) as client:
        for other in client.read_flow_runs(flow_run_filter=waiting):
            late = other.expected_start_time is not None and other.expected_start_time <= datetime.now(UTC)
            if other.auto_scheduled and late and other.parameters == flow_run.parameters:
                client.set_flow_run_state(other.id, done)
