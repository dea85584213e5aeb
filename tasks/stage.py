"""One step of a recipe as a tracked task: DVC runs it, MLflow records it."""

import logging
from typing import Any

from prefect import task

from tasks.prepare import workspace
from tasks.settings import settings
from tasks.tracking import Tracking

log = logging.getLogger("sau")


@task(name="stage", task_run_name="{stage}")
def run_stage(stage: str, name: str, line: str, run_id: str) -> dict[str, Any]:
    """Bring one DVC stage of worktree `name` up to date as a child run; returns its metrics (numbers and digests).

    Raises:
        WorkspaceError: the stage failed; its own message is the end of this one.
    """
    tracking = Tracking(settings())
    log.info("%s", stage)
    with tracking.run(line, stage, parent=run_id) as step:
        metrics = workspace(name).repro(stage, on_line=lambda text: log.debug("%s", text))
        tracking.metrics(step, metrics)
        tracking.tags(step, {key: str(value) for key, value in metrics.items() if isinstance(value, str)})
    return {key: value for key, value in metrics.items() if key != "trajectory"}
