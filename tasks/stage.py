"""One step of a recipe as a tracked task: DVC runs it, MLflow records it."""

import logging

from tasks.engines.orchestration import task
from tasks.engines.tracking import Tracking
from tasks.engines.workspace import Attempt

log = logging.getLogger("sau")


@task(name="stage", task_run_name="{stage}")
def run_stage(stage: str, attempt: Attempt) -> None:
    """Bring one DVC stage of the attempt up to date as a child run, which gets its metrics (numbers and digests).

    Raises:
        WorkspaceError: the stage failed; its own message is the end of this one.
    """
    tracking = Tracking()
    log.info("%s", stage)
    with tracking.run(attempt.line, stage, parent=attempt.run_id) as step:
        metrics = attempt.workspace.repro(stage, on_line=lambda text: log.debug("%s", text))
        tracking.metrics(step, metrics)
        tracking.tags(step, {key: value for key, value in metrics.items() if isinstance(value, str)})
