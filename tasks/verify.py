"""Verification of the packaged checkpoint, with the parent and the retrained model beside it."""

import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import task

from sau.checkpoint import check_files, open_sparse
from sau.models import LanguageModel, seeded
from sau.params import load_params
from sau.stages import CHECKPOINT, PARENT, read_split
from sau.verify.battery import verify as run_battery
from sau.verify.policy import load_policy
from sau.verify.report import render_html
from tasks.prepare import workspace
from tasks.settings import settings
from tasks.tracking import Tracking

log = logging.getLogger("sau")


def _opener(folder: Path) -> Callable[[], LanguageModel]:
    return lambda: open_sparse(folder)


@task(name="verify", task_run_name="verify {line}")
def verify(
    name: str, line: str, run_id: str, *, request_ids: list[str], reference: tuple[str, int] | None
) -> dict[str, Any]:
    """Judge the stored checkpoint of worktree `name` by the policy its params.yaml names.

    Args:
        reference: (line, number) of the retrained model, None where there is none: the checks that need it then
            answer INCONCLUSIVE.

    Returns:
        verdict, reason, policy digest, model digest. The whole record is an artifact of the request's run.
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
    manifest = check_files(ws.path / CHECKPOINT)
    with tracking.run(line, "verify", parent=run_id) as step, seeded(params.seed, params.num_threads):
        verification = run_battery(
            model=_opener(ws.path / CHECKPOINT),
            forget=rows["forget"],
            retain=retain,
            holdout=rows["holdout"],
            before=_opener(ws.path / PARENT),
            reference=gold,
            policy=load_policy(params.verify.policy),
            model_digest=manifest.digest,
            seed=params.seed,
            progress=lambda text: log.debug("verify %s", text),
        )
        record = verification.to_json()
        tracking.metrics(step, {c["id"]: c["value"] for c in record["checks"] if isinstance(c["value"], float)})
        tracking.metrics(run_id, {"table": record["table"]})
        outcome = {
            "verdict": record["verdict"],
            "policy": record["policy"],
            "policy_digest": record["policy_digest"],
            "model_digest": record["model_digest"],
        }
        tracking.tags(run_id, {key: str(value) for key, value in outcome.items()})
        tracking.text(run_id, json.dumps(record, indent=1), "verification.json")
        facts = {
            "Requests": ", ".join(request_ids),
            "Model line": line,
            "Model digest": manifest.digest,
            "Mask digest": manifest.mask_digest,
            "Sparsity": f"{manifest.sparsity:.4%} ({manifest.structure})",
        }
        tracking.text(
            run_id, render_html(verification, title=f"{line}: forgetting verified", facts=facts), "report.html"
        )
    log.info("verdict %s", outcome["verdict"])
    return outcome
