"""Bring a version back: its bytes through DVC, or by running its recipe again."""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

from sau.checkpoint.sparse import check_files
from sau.errors import CheckpointError, WorkspaceError
from tasks.settings import settings
from tasks.workspace import Workspace, dvc, git, parse_tag, pins_at

log = logging.getLogger("sau")
IMPORTED = "base"  # an import, not a computation: brought back, never made again


@dataclass(frozen=True)
class Reproduction:
    """What came back."""

    tag: str
    folder: str
    model_digest: str
    checkpoint_md5: str
    rerun_digest: str | None

    @property
    def equal(self) -> bool:
        return self.rerun_digest in (None, self.model_digest)


def reproduce(tag: str, target: Path, *, rerun: bool) -> Reproduction:
    """Restore the checkpoint of version `tag` into `target`; with `rerun` also make it again and compare digests.

    Needs the repository with its tags and the DVC remote, nothing else: no MLflow, no Prefect.

    Raises:
        WorkspaceError: no such tag, or the bytes are in neither cache nor remote.
        CheckpointError: the bytes that came are not those the version recorded, or the target is not empty.
    """
    parse_tag(tag)
    root = settings().root
    if not git(root, "tag", "--list", tag):
        raise WorkspaceError(f"version {tag}: no such git tag here (git fetch --tags?)")
    if target.exists() and any(target.iterdir()):
        raise CheckpointError(f"{target}: not empty")
    recorded = json.loads(git(root, "show", f"{tag}:metrics/package.json"))["model_digest"]
    ws = Workspace(settings(), f"reproduce-{tag}").open(tag)
    try:
        stages = list(yaml.safe_load((ws.path / "dvc.yaml").read_text())["stages"])
        log.info("restoring %s", tag)
        dvc(ws.path, "pull")
        restored = check_files(ws.path / "checkpoint").digest
        if restored != recorded:
            raise CheckpointError(f"{tag}: the bytes have model digest {restored}, the version recorded {recorded}")
        shutil.copytree(ws.path / "checkpoint", target, dirs_exist_ok=True)
        again = None
        if rerun:
            for stage in (s for s in stages if s != IMPORTED):
                log.info("running %s again", stage)
                dvc(
                    ws.path, "repro", "--force", "--no-run-cache", "--single-item", stage,
                    on_line=lambda text: log.debug("%s", text),
                )  # fmt: skip
            again = check_files(ws.path / "checkpoint").digest
        return Reproduction(tag, str(target), restored, pins_at(root, tag)["checkpoint"].md5, again)
    finally:
        ws.close()
