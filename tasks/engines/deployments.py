"""What a Prefect server is asked and told of work pools, a deployment's schedule, and alarms."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

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
from prefect.events import AutomationCore, EventTrigger, Posture, SendNotification
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


STUCK_AFTER_S = 12 * 3600.0
"""A run that goes on for so long is stuck, as far as an alarm is concerned."""
_ENDED = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Crashed", "Cancelled")}


def notification_block(name: str) -> UUID:
    """The id of a notification block, called TYPE/NAME.

    Raises:
        TrackingError: there is none, or the server cannot be asked.
    """
    kind, _, own = name.partition("/")
    with _asking() as client:
        try:
            return client.read_block_document_by_name(own, kind).id
        except ObjectNotFound:
            raise TrackingError(
                f"alarm {name!r}: no such block on this Prefect server, as TYPE/NAME of its page Blocks "
                "(slack-webhook/team)"
            ) from None


def set_alarms(line: str, deployments: Iterable[str], block: UUID) -> tuple[str, ...]:
    """Make, or bring up to date, the automations that tell somebody: of an overdue request (its id), of a run that
    failed or began late, and of one that does not end. One that was disabled stays so.

    Args:
        deployments: of the line, as FLOW/NAME.
        block: what they are sent through, see `notification_block`.

    Returns:
        The automations' names.

    Raises:
        TrackingError: the server refuses.
    """
    with _asking() as client:
        ids = [f"prefect.deployment.{client.read_deployment_by_name(deployment).id}" for deployment in deployments]
        runs = {
            "match": {"prefect.resource.id": "prefect.flow-run.*"},
            "match_related": {"prefect.resource.role": "deployment", "prefect.resource.id": ids},
        }
        failed = {"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.Late"}
        at_once = {"posture": Posture.Reactive, "threshold": 1, "within": timedelta(0)}
        triggers = {
            "overdue": EventTrigger(expect={"sau.request.overdue"}, match={"sau.line": line}, **at_once),
            "failed": EventTrigger(expect=failed, **runs, **at_once),
            "stuck": EventTrigger(
                after={"prefect.flow-run.Running"}, expect=_ENDED, for_each={"prefect.resource.id"}, threshold=1,
                posture=Posture.Proactive, within=timedelta(seconds=STUCK_AFTER_S), **runs,
            ),
        }  # fmt: skip
        told = {
            "overdue": "request {{ event.resource.name }} is past its deadline",
            "failed": "{{ event.event }}: {{ event.resource.name }}",
            "stuck": f"a run goes on for more than {STUCK_AFTER_S / 3600:.0f} hours",
        }
        names = []
        for what, trigger in triggers.items():
            send = SendNotification(block_document_id=block, subject=f"sau {line}: {what}", body=told[what])
            wanted = AutomationCore(name=f"sau {line}: {what}", trigger=trigger, actions=[send])
            if there := client.read_automations_by_name(wanted.name):
                wanted.enabled = there[0].enabled
                client.update_automation(there[0].id, wanted)
            else:
                client.create_automation(wanted)
            names.append(wanted.name)
        return tuple(names)


@contextlib.contextmanager
def _asking() -> Iterator[SyncPrefectClient]:
    """A client whose refusals are ours, in one line, and so is an answer that is not Prefect's."""
    try:
        with get_client(sync_client=True) as client:
            yield client
    except (PrefectException, httpx.HTTPError, ValueError, RuntimeError) as error:
        raise TrackingError(f"Prefect: {type(error).__name__}: {' '.join(str(error).split())}") from None
