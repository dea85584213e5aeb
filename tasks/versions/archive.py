"""An archive of a line: all its registered versions in one folder, most of them as deltas."""

import logging
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from sau.checkpoint.archive import hops, keep, num_bytes
from sau.checkpoint.manifest import read_manifest
from sau.errors import RequestError, TrackingError
from tasks.versions.expiry import expired
from tasks.versions.registry import Registry

log = logging.getLogger("sau")


class Archived(BaseModel):
    """One version of an archive: its size there, and how many deltas have to be applied to restore it."""

    model_config = ConfigDict(frozen=True)

    name: str
    weights_digest: str
    num_bytes: int
    hops: int


def archive(line: str, folder: Path, max_hops: int) -> list[Archived]:
    """Add the line's versions that `folder` lacks, oldest first, and say what it holds of the line then.

    Versions that MLflow no longer has stay in the archive; a version that was deleted from it comes back only while
    MLflow has it and nothing newer is there.

    Raises:
        RequestError: the line has no versions.
        TrackingError: the archive or MLflow has other bytes than a version recorded.
        CheckpointError: something stored is damaged.
    """
    registry = Registry()
    versions = registry.all(line)
    if not versions:
        raise RequestError(f"line {line}: no versions in this MLflow store")
    recorded = {f"v{record.number}": record.weights_digest for record in versions}
    folder.mkdir(parents=True, exist_ok=True)
    for name in _names(folder):
        _check(folder / name, folder / name, recorded.get(name))
    for record in versions:
        name, there = f"v{record.number}", _names(folder)
        if there and record.number <= int(there[-1][1:]):
            continue
        if gone := expired(registry.tracking.settings.root, record.tag):
            log.info("%s", gone.words)
            continue
        log.info("archiving %s", name)
        checkpoint = registry.download(record)
        _check(record.tag, checkpoint, recorded[name])
        keep(checkpoint, folder, name, before=there[-1] if there else None, max_hops=max_hops)
    return [
        Archived(
            name=name,
            weights_digest=read_manifest(folder / name).weights_digest,
            num_bytes=num_bytes(folder / name),
            hops=hops(folder / name),
        )
        for name in _names(folder)
    ]


def _check(what: object, checkpoint: Path, recorded: str | None) -> None:
    """Refuse weights that are not those the version recorded; the first versions recorded the manifest's digest."""
    found = read_manifest(checkpoint)
    if recorded not in (None, found.weights_digest, found.manifest_digest):
        raise TrackingError(f"{what}: has weights digest {found.weights_digest}, {recorded} was recorded")


def _names(folder: Path) -> list[str]:
    """The versions in an archive, oldest first: v1, v2, ..."""
    return [f"v{n}" for n in sorted(int(path.name[1:]) for path in folder.glob("v*") if path.name[1:].isdigit())]
