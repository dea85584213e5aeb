"""Register: push the bytes, commit the recipe, register the version, tag it, move the aliases."""

import logging
from datetime import UTC, datetime

from sau.checkpoint.manifest import check_files
from sau.errors import CheckpointError, TrackingError
from sau.params import load_params
from tasks.engines.orchestration import task
from tasks.engines.registered import CANDIDATE
from tasks.engines.repository import git, tag_version
from tasks.engines.settings import settings
from tasks.engines.workspace import Attempt
from tasks.memory import in_words
from tasks.verify import Judged
from tasks.versions.origin import made_of
from tasks.versions.record import BOOTSTRAP, VersionRecord, surroundings
from tasks.versions.registry import Registry

log = logging.getLogger("sau")


@task(name="register", task_run_name="register {attempt.line}")
def register(
    attempt: Attempt,
    *,
    request_ids: tuple[str, ...] = (),
    parent: int | None = None,
    judged: Judged | None = None,
    forget_md5: str = "",
) -> VersionRecord:
    """Make the attempt's checkpoint the line's next version, alias `candidate`.

    Order: bytes to the DVC remote, recipe commit, MLflow version, git tag. A version that an earlier attempt got as
    far as MLflow with is taken up, so a crash in between leaves nothing twice.

    Args:
        parent: the version before, by number; None for a first one.
        judged: the verdict; None where nothing was to be forgotten.

    Raises:
        CheckpointError: the checkpoint is not, byte for byte, the one that was judged.
        TrackingError: MLflow's copy is not.
    """
    registry, ws = Registry(), attempt.workspace
    tracking, root = registry.tracking, ws.settings.root
    log.info("register")
    manifest = check_files(ws.path / "checkpoint")
    if judged and judged.manifest_digest != manifest.manifest_digest:
        raise CheckpointError(
            f"{attempt.line}: the checkpoint has manifest {manifest.manifest_digest}, judged was "
            f"{judged.manifest_digest}"
        )
    with tracking.run(attempt.line, "register", parent=attempt.run_id):
        ws.push()
        before = registry.get(attempt.line, parent) if parent else None
        params = load_params(ws.path / "params.yaml")
        head = git(ws.path, "rev-parse", "HEAD")
        dirty = bool(git(root, "status", "--porcelain"))
        commit = ws.commit(
            f"{attempt.line}: {' '.join(request_ids) or 'first version'}",
            parents=[before.git_commit] if before else [],
            surroundings=surroundings(),
        )
        record = VersionRecord(
            line=attempt.line,
            request_ids=request_ids,
            memory=in_words(ws),
            data_md5=ws.pin("data").md5,
            forget_md5=forget_md5,
            checkpoint_md5=ws.pin("checkpoint").md5,
            code_commit=head,
            checkout_dirty=dirty,
            **made_of(commit, manifest, params, before),
            verdict=judged.verdict if judged else BOOTSTRAP,
            policy=judged.policy if judged else "",
            policy_digest=judged.policy_digest if judged else "",
            null=judged.null if judged else "",
            judged_against=judged.judged_against if judged else "",
            reference=judged.reference if judged else "",
            judged_at=datetime.now(UTC).isoformat(),
        )
        description = f"**{record.verdict}**, {record.origin}"
        record = registry.add(record, ws.path / "checkpoint", run_id=attempt.run_id, description=description)
        if (stored := complete(record)) != manifest.manifest_digest:
            raise TrackingError(f"{record.tag}: MLflow stores manifest {stored}, {manifest.manifest_digest} was sent")
    return record


def complete(record: VersionRecord) -> str:
    """Make a version whole that MLflow has: alias `candidate`, git tag, and a look at what MLflow stores.

    Returns:
        The manifest digest of what MLflow stores.

    Raises:
        TrackingError: MLflow's copy is not the checkpoint of the record.
        WorkspaceError: the git tag is taken, or the commit is not in this repository.
    """
    registry = Registry()
    registry.tracking.set_alias(record.line, CANDIDATE, record.number)
    tag_version(settings().root, record.tag, record.git_commit, f"{record.tag}: {record.verdict}")
    registry.tracking.tag_version(record.line, record.number, {"git_tag": record.tag})
    stored = check_files(registry.download(record))
    if (stored.weights_digest, stored.mask_digest) != (record.weights_digest, record.mask_digest):
        raise TrackingError(f"{record.tag}: MLflow stores weights {stored.weights_digest}, not {record.weights_digest}")
    return stored.manifest_digest


@task(name="promote", task_run_name="promote {record.tag}")
def promote(record: VersionRecord) -> bool:
    """Make a version the line's champion if its verdict allows; what MLflow then says is read back.

    Returns:
        Whether it is the champion now.
    """
    registry = Registry()
    stored = registry.get(record.line, record.number)
    if not stored.may_lead:
        log.info("not promoted: verdict %s, v%d stays %s", stored.verdict, stored.number, CANDIDATE)
        return False
    registry.lead(stored.line, stored.number)
    log.info("v%d is champion", stored.number)
    return True
