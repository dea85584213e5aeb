"""One step of a recipe as a tracked task: DVC runs it, MLflow records it."""

import json
import logging

from sau.stages import ZEROS
from tasks.engines.orchestration import task
from tasks.engines.tracking import Tracking
from tasks.engines.workspace import Attempt
from tasks.memory import PEAK, note

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
        peak: list[int] = []

        def hear(text: str) -> None:
            if text.startswith(PEAK):
                peak.append(int(text.split()[2]))
            else:
                log.debug("%s", text)

        metrics = attempt.workspace.repro(stage, on_line=hear)
        if peak:  # none where the step came back from the cache
            tracking.metrics(step, {"peak_bytes": peak[-1]})
            note(attempt.workspace, **{stage: peak[-1]})
        if stage == "adopt":
            told = (attempt.workspace.path / ZEROS).read_text(encoding="utf-8")
            log.info("%s", json.loads(told)["found"])
            if metrics.get("merged"):
                log.info("%s", metrics["merged"])
            tracking.text(attempt.run_id, told, ZEROS.name)
            _warn_of_rows(metrics["train_logp"], metrics["holdout_logp"])
            if not metrics["prompt_holds"]:
                log.warning("%s (--prompt-format, or model.prompt)", metrics["prompt"])
        tracking.metrics(step, metrics)
        tracking.tags(step, {key: value for key, value in metrics.items() if isinstance(value, str)})


def _warn_of_rows(train_logp: float, holdout_logp: float) -> None:
    """Say where rows are not what an adopted model was trained on, or those kept out are."""
    if holdout_logp > train_logp - 0.1:
        log.warning(
            "the model finds rows of people it should never have seen as likely as those it was trained on (%.2f and "
            "%.2f nats a token): are these its rows, its prompt, and has it never seen the holdout's? Verdicts would "
            "have no power",
            holdout_logp, train_logp,
        )  # fmt: skip
