"""What a Prefect server says of work pools and of a deployment's schedule."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateName,
    WorkerFilter,
    WorkerFilterStatus,
)
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectException

from sau.errors import TrackingError


@dataclass(frozen=True)
class Schedule:
    """How a deployment stands.

    Attributes:
        is_active: whether runs of it are planned.
        num_workers: of its work pool, that are there now.
        num_late: runs that should have begun.
    """

    is_active: bool
    pool: str
    num_workers: int
    num_late: int


def schedule_of(name: str) -> Schedule | None:
    """The schedule of a deployment, called FLOW/NAME; None where there is none of that name.

    Raises:
        TrackingError: the server cannot be asked.
    """
    with _asking() as client:
        try:
            found = client.read_deployment_by_name(name)
        except ObjectNotFound:
            return None
        online = WorkerFilter(status=WorkerFilterStatus(any_=["ONLINE"]))
        pool = found.work_pool_name or ""
        workers = client.read_workers_for_work_pool(pool, worker_filter=online) if pool else []
        late = FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[found.id]),
            state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Late"])),
        )
        runs = client.read_flow_runs(flow_run_filter=late)
        is_active = not found.paused and any(schedule.active for schedule in found.schedules)
        return Schedule(is_active, pool, len(workers), len(runs))


def work_pool_type(name: str) -> str | None:
    """What kind of work pool this is; None where there is none of that name.

    Raises:
        TrackingError: the server cannot be asked.
    """
    with _asking() as client:
        try:
            return client.read_work_pool(name).type
        except ObjectNotFound:
            return None


def process_pool(name: str) -> str:
    """Make a work pool of processes; one that somebody else has just made stays as it is. Returns its type.

    Raises:
        TrackingError: the server cannot be asked.
    """
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    with _asking() as client:
        with contextlib.suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=name, type=ProcessWorker.type, base_job_template=template))
        return client.read_work_pool(name).type


@contextlib.contextmanager
def _asking() -> Iterator[SyncPrefectClient]:
    """A client whose refusals are ours, in one line."""
    try:
        with get_client(sync_client=True) as client:
            yield client
    except (PrefectException, httpx.HTTPError) as error:
        raise TrackingError(f"Prefect: {type(error).__name__}: {' '.join(str(error).split())}") from None
