"""Bring a version back: its bytes through DVC, or by running its recipe again."""

import errno
import json
import logging
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from pydantic import BaseModel, ConfigDict

from sau.checkpoint.compare import Difference, compare
from sau.checkpoint.manifest import SparseCheckpoint, check_files
from sau.errors import CheckpointError, WorkspaceError
from tasks.engines.pins import dvc, pins_at
from tasks.engines.repository import bring_tag, git, parse_tag
from tasks.engines.settings import settings
from tasks.engines.workspace import SURROUNDINGS, Workspace, scratch
from tasks.versions.expiry import expired
from tasks.versions.record import changed_surroundings

log = logging.getLogger("sau")
IMPORTED = "base"  # an import, not a computation: brought back, never made again


class Reproduction(BaseModel):
    """What came back.

    Attributes:
        was_there: whether the folder held the version already; then it was only checked.
        difference: between what came back and what its recipe makes now; None where it was not run.
        surroundings: what is not as it was when the version was made: name -> (then, now).
    """

    model_config = ConfigDict(frozen=True)

    tag: str
    folder: str
    weights_digest: str
    side_digest: str
    checkpoint_md5: str
    was_there: bool
    difference: Difference | None = None
    surroundings: dict[str, tuple[str, str]] = {}

    @property
    def equal(self) -> bool:
        """Whether the recipe makes the same weights again; True where it was not run."""
        return self.difference is None or not (self.difference.weights or self.difference.mask)


def reproduce(tag: str, target: Path, *, rerun: bool) -> Reproduction:
    """Restore the checkpoint of version `tag` into `target`; with `rerun` also make it again and compare.

    Needs the repository with its tags and the DVC remote, nothing else: no MLflow, no Prefect.

    Raises:
        WorkspaceError: no such tag, the version was removed by a purge (and by which), the bytes are in neither cache
            nor remote, or what it was made from was removed and it is to be made again.
        CheckpointError: the bytes that came are not those the version recorded, or the target holds something else.
    """
    parse_tag(tag)
    root = settings().root
    bring_tag(root, tag)
    if not git(root, "tag", "--list", tag):
        raise WorkspaceError(f"version {tag}: no such git tag here (git fetch --tags?)")
    if gone := expired(root, tag):
        raise WorkspaceError(gone.words)
    if was_there := target.exists() and any(target.iterdir()):
        check_as_recorded(tag, check_files(target))
    difference = None
    if rerun or not was_there:
        with scratch(f"reproduce-{tag}", tag) as ws:
            log.info("restoring %s", tag)
            ws.bring_all(tag)  # what it was made from may have been removed
            if rerun and (lacking := _lacking(ws.path)):
                raise WorkspaceError(
                    f"{tag}: cannot be made again, {' and '.join(lacking)} were removed by a purge; its own bytes are "
                    "there (leave out --rerun)"
                )
            if lost := ws.lost({"checkpoint": pins_at(root, tag)["checkpoint"]}):
                raise WorkspaceError(f"{tag}: {lost}")
            check_as_recorded(tag, check_files(ws.path / "checkpoint"))
            if not was_there:
                _put(ws.path / "checkpoint", target)
            if rerun:
                _run_again(ws)
                difference = compare(target, ws.path / "checkpoint")
    stored = check_files(target)
    return Reproduction(
        tag=tag,
        folder=str(target),
        weights_digest=stored.weights_digest,
        side_digest=stored.side_digest,
        checkpoint_md5=pins_at(root, tag)["checkpoint"].md5,
        was_there=was_there,
        difference=difference,
        surroundings=changed_surroundings(_surroundings(root, tag)) if rerun else {},
    )


def _lacking(folder: Path) -> list[str]:
    """What the recipe reads and no store has any more."""
    pointers = (path.name.removesuffix(".dvc") for path in folder.glob("*.dvc") if path.is_file())
    return sorted(name for name in pointers if not (folder / name).exists())


def _put(source: Path, target: Path) -> None:
    """A copy of a folder, whole or not at all; where another was first, its copy stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as beside:
        whole = shutil.copytree(source, Path(beside) / "whole")
        try:
            whole.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise


def check_as_recorded(tag: str, found: SparseCheckpoint) -> None:
    """Refuse other bytes than the version recorded in git; the first versions recorded one digest of everything.

    Raises:
        CheckpointError: they are others.
        WorkspaceError: the tag's commit is no version.
    """
    root = settings().root
    last = list(yaml.safe_load(git(root, "show", f"{tag}:dvc.yaml"))["stages"])[-1]  # what makes the checkpoint
    recorded = json.loads(git(root, "show", f"{tag}:metrics/{last}.json"))
    pairs = [
        ("model digest", found.manifest_digest, recorded.get("model_digest")),
        ("weights digest", found.weights_digest, recorded.get("weights_digest")),
        ("side digest", found.side_digest, recorded.get("side_digest")),
    ]
    for what, digest, wanted in pairs:
        if wanted not in (None, digest):
            raise CheckpointError(f"{tag}: the bytes have {what} {digest}, the version recorded {wanted}")


def _run_again(ws: Workspace) -> None:
    stages = yaml.safe_load((ws.path / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for stage in (s for s in stages if s != IMPORTED):
        log.info("running %s again", stage)
        dvc(
            ws.path, "repro", "--force", "--no-run-cache", "--single-item", stage,
            on_line=lambda text: log.debug("%s", text),
        )  # fmt: skip


def _surroundings(root: Path, tag: str) -> dict[str, str]:
    """What the version was made on; empty for one that did not record it."""
    names = git(root, "ls-tree", "--name-only", tag).split("\n")
    return json.loads(git(root, "show", f"{tag}:{SURROUNDINGS}")) if SURROUNDINGS in names else {}
