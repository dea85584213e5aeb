"""Publish: push the bytes, commit the recipe, register the version, tag it, move the aliases."""

import logging
from typing import Any

from prefect import task

from sau.checkpoint.sparse import check_files
from sau.errors import CheckpointError, TrackingError
from sau.params import load_params
from tasks.prepare import params_digest, training_digest, workspace
from tasks.settings import settings
from tasks.tracking import CANDIDATE, CHAMPION, Tracking
from tasks.workspace import git, tag_name, tag_version

log = logging.getLogger("sau")
BOOTSTRAP = "BOOTSTRAP"
MAY_LEAD = ("PASS", BOOTSTRAP)


@task(name="register", task_run_name="register {line}")
def register(
    name: str,
    line: str,
    run_id: str,
    *,
    request_ids: list[str],
    parent: str | None,
    verdict: str,
    verified: str | None = None,
    tags: dict[str, str],
) -> dict[str, Any]:
    """Make worktree `name` the line's next version, alias `candidate`.

    Order: bytes to the DVC remote, recipe commit, MLflow version, git tag. A version that an earlier attempt got as
    far as MLflow with is taken up, so a crash in between leaves nothing twice.

    Args:
        parent: the version before, by number; None for a first one.
        verdict: PASS, FAIL, INCONCLUSIVE, REFUSED, or BOOTSTRAP where nothing was to be forgotten.
        verified: the model digest that the verdict speaks of; None where nothing was to be verified.
        tags: further tags of the version.

    Raises:
        CheckpointError: the checkpoint is not the one that was verified.
        TrackingError: MLflow's copy does not have the digest that was verified.
    """
    tracking, ws, root = Tracking(settings()), workspace(name), settings().root
    log.info("register")
    manifest = check_files(ws.path / "checkpoint")
    if verified not in (None, manifest.digest):
        raise CheckpointError(f"{line}: the checkpoint has digest {manifest.digest}, {verified} was verified")
    with tracking.run(line, "register", parent=run_id):
        ws.push()
        parent_version = tracking.version(line, int(parent)) if parent else None
        parent_commits = [parent_version.tags["git_commit"]] if parent_version else []
        head = git(ws.path, "rev-parse", "HEAD")
        params = load_params(ws.path / "params.yaml")
        commit = ws.commit(f"{line}: {' '.join(request_ids) or 'first version'}", parents=parent_commits)
        all_tags = {
            "request_ids": ",".join(request_ids),
            "parent_version": parent or "",
            "parent_digest": parent_version.tags["model_digest"] if parent_version else "",
            "model_digest": manifest.digest,
            "mask_digest": manifest.mask_digest,
            "sparsity": f"{manifest.sparsity:.6f}",
            "structure": manifest.structure,
            "data_md5": ws.pin("data").md5,
            "checkpoint_md5": ws.pin("checkpoint").md5,
            "params_digest": params_digest(params),
            "training_digest": training_digest(params),
            "code_commit": head,
            "git_commit": commit,
            "checkout_dirty": str(bool(git(root, "status", "--porcelain"))).lower(),
            "verdict": verdict,
            **tags,
        }
        came_from = f"from {tag_name(line, int(parent))}" if parent else "from the base model"
        asked = f"forget {', '.join(request_ids)}: " if request_ids else ""
        version = tracking.register(
            line,
            ws.path / "checkpoint",
            run_id=run_id,
            tags=all_tags,
            parent=parent_version,
            description=f"{asked}**{verdict}**, {came_from}. Lineage and report: artifacts of the source run.",
        )
        number = int(version.version)
        tag = tag_name(line, number)
        tag_version(root, tag, version.tags["git_commit"], f"{tag}: {verdict}")
        tracking.tag_version(line, version.version, {"git_tag": tag})
        if (stored := check_files(tracking.download(version)).digest) != manifest.digest:
            raise TrackingError(f"{tag}: MLflow stores model digest {stored}, {manifest.digest} was verified")
    return {"version": number, "tag": tag, "model_digest": manifest.digest, "commit": version.tags["git_commit"]}


@task(name="promote", task_run_name="promote {line} v{number}")
def promote(line: str, number: int) -> bool:
    """Make a version the line's champion if its verdict allows; what MLflow then says is read back.

    Returns:
        Whether it is the champion now.
    """
    tracking = Tracking(settings())
    version = tracking.version(line, number)
    if version is None:
        raise TrackingError(f"MLflow: {line} has no version {number}")
    if version.tags["verdict"] not in MAY_LEAD:
        log.info("not promoted: verdict %s, v%d stays %s", version.tags["verdict"], number, CANDIDATE)
        return False
    tracking.set_alias(line, CHAMPION, version.version)
    log.info("v%d is champion", number)
    return True
