"""Verification of the packaged checkpoint, with the parent and the retrained model beside it."""

import json
import logging
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from prefect import task

from sau.checkpoint.sparse import check_files, open_sparse
from sau.data.records import Row
from sau.errors import CheckpointError, DataError, WorkspaceError
from sau.models.dense import open_dense
from sau.models.language_model import LanguageModel, seeded
from sau.models.sources import ModelParams
from sau.params import load_params
from sau.stages import CHECKPOINT, PARENT, read_split
from sau.verify.battery import verify as run_battery
from sau.verify.policy import load_policy
from sau.verify.report.answers import answers
from sau.verify.report.page import render_html, render_markdown
from tasks.prepare import workspace
from tasks.settings import settings
from tasks.tracking import Tracking
from tasks.workspace import Workspace, pins_at

log = logging.getLogger("sau")


CARD = ("id", "n", "value", "before", "never_saw_it", "margin", "power", "verdict")
DENSE = "artifacts/dense"
_DENSE_PLACE = "stress/dense"  # a folder of its own: the version's commit takes pointers of the top folder only


def _opener(folder: Path) -> Callable[[], LanguageModel]:
    return lambda: open_sparse(folder)


def _dense_opener(tracking: Tracking, ws: Workspace, line: str) -> Callable[[], LanguageModel]:
    """The dense model that the line's first version was pruned from; DVC brings it when a stressor asks for it.

    Raises (when asked):
        WorkspaceError: the first version does not pin it, or its bytes are in neither cache nor remote.
    """

    @cache
    def folder() -> Path:
        tag = tracking.versions(line)[0].tags["git_tag"]
        pins = pins_at(ws.settings.root, tag)
        if DENSE not in pins:
            raise WorkspaceError(f"{tag}: pins no {DENSE}")
        try:
            ws.point(_DENSE_PLACE, pins[DENSE])
        except WorkspaceError:
            raise WorkspaceError(f"{tag}: {DENSE} is in neither DVC's cache nor its remote") from None
        return ws.path / _DENSE_PLACE

    return lambda: open_dense(folder(), prompt=ModelParams().prompt)


@task(name="verify", task_run_name="verify {line}")
def verify(
    name: str,
    line: str,
    run_id: str,
    *,
    request_ids: list[str],
    reference: tuple[str, int] | None,
    show_answers: bool = False,
) -> dict[str, Any]:
    """Judge the stored checkpoint of worktree `name` by the policy its params.yaml names.

    Args:
        reference: (line, number) of the retrained model, None where there is none: the checks that need it then
            answer INCONCLUSIVE.
        show_answers: what the models answer goes into the report, where all rows are of the demo people.

    Returns:
        verdict, policy digest, model digest, and the checks' numbers. The whole record and the report, as a page and as
        Markdown, are artifacts of the request's run.

    Raises:
        CheckpointError: a checkpoint is damaged, or changed while it was verified.
    """
    tracking, ws = Tracking(settings()), workspace(name)
    log.info("verify")
    params = load_params(ws.path / "params.yaml")
    rows = read_split(ws.path)
    retain = rows["retain"]
    if len(retain) > params.verify.max_retain_rows:
        retain = random.Random(params.seed).sample(retain, params.verify.max_retain_rows)
    gold = None
    if reference:
        version = tracking.version(*reference)
        gold = _opener(tracking.download(version)) if version else None
    model, before = _opener(ws.path / CHECKPOINT), _opener(ws.path / PARENT)
    manifest = check_files(ws.path / CHECKPOINT)
    with tracking.run(line, "verify", parent=run_id) as step, seeded(params.seed, params.num_threads):
        verification = run_battery(
            model=model,
            forget=rows["forget"],
            retain=retain,
            holdout=rows["holdout"],
            before=before,
            reference=gold,
            dense=_dense_opener(tracking, ws, line),
            policy=load_policy(params.verify.policy, num_stressors=params.verify.num_stressors),
            model_digest=manifest.digest,
            seed=params.seed,
            progress=lambda text: log.debug("verify %s", text),
        )
        if check_files(ws.path / CHECKPOINT).digest != manifest.digest:
            raise CheckpointError(f"{line}: the checkpoint changed while it was verified")
        record = verification.to_json()
        numbers = {check["id"]: check["value"] for check in record["checks"] if check["value"] is not None}
        tracking.metrics(step, numbers | {"rows_read": record["rows_read"], "cpu_seconds": record["seconds"]})
        tracking.metrics(run_id, {"table": record["table"]})
        outcome = {key: record[key] for key in ("verdict", "policy", "policy_digest", "model_digest")}
        tracking.tags(run_id, outcome)
        tracking.text(run_id, json.dumps(record, indent=1), "verification.json")
        page: dict[str, Any] = {
            "title": f"{line}: forgetting verified",
            "facts": {
                "Requests": ", ".join(request_ids),
                "Model line": line,
                "Mask digest": manifest.mask_digest,
                "Sparsity": f"{manifest.sparsity:.4%} ({manifest.structure})",
            },
            "unlearning": json.loads((ws.path / "metrics" / "unlearn.json").read_text()),
        }
        if show_answers:
            models = {"before": before, "after": model, "reference": gold}
            page["answers"] = _answers(models, {"forget": rows["forget"], "retain": retain})
        tracking.text(run_id, render_html(verification, **page), "report.html")
        tracking.text(run_id, render_markdown(verification, **page), "report.md")
    log.info("verdict %s", outcome["verdict"])
    return outcome | {"checks": [{key: check[key] for key in CARD} for check in record["checks"]]}


def _answers(models: dict[str, Callable[[], LanguageModel] | None], rows: dict[str, list[Row]]) -> list[dict[str, str]]:
    try:
        return answers(models, rows)
    except DataError as error:
        log.warning("%s", error)
        return []
