"""An archive of a line: all its registered versions in one folder, most of them as deltas."""

import logging
from dataclasses import dataclass
from pathlib import Path

from sau.checkpoint.archive import hops, keep, num_bytes
from sau.checkpoint.sparse import read_manifest
from sau.errors import RequestError, TrackingError
from tasks.settings import settings
from tasks.tracking import Tracking

log = logging.getLogger("sau")


@dataclass(frozen=True)
class Archived:
    """One version of an archive: its size there, and how many deltas have to be applied to restore it."""

    name: str
    model_digest: str
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
    tracking = Tracking(settings())
    versions = tracking.versions(line)
    if not versions:
        raise RequestError(f"line {line}: no versions in this MLflow store")
    recorded = {f"v{version.version}": version.tags["model_digest"] for version in versions}
    folder.mkdir(parents=True, exist_ok=True)
    for name in _names(folder):
        if (found := read_manifest(folder / name).digest) != recorded.get(name, found):
            raise TrackingError(f"{folder / name}: model digest {found}, {line}@{name} has {recorded[name]}")
    for version in versions:
        name, there = f"v{version.version}", _names(folder)
        if there and int(version.version) <= int(there[-1][1:]):
            continue
        log.info("archiving %s", name)
        checkpoint = tracking.download(version)
        if (found := read_manifest(checkpoint).digest) != recorded[name]:
            raise TrackingError(f"{line}@{name}: MLflow stores model digest {found}, {recorded[name]} was recorded")
        keep(checkpoint, folder, name, before=there[-1] if there else None, max_hops=max_hops)
    paths = [folder / name for name in _names(folder)]
    return [Archived(path.name, read_manifest(path).digest, num_bytes(path), hops(path)) for path in paths]


def _names(folder: Path) -> list[str]:
    """The versions in an archive, oldest first: v1, v2, ..."""
    return [f"v{n}" for n in sorted(int(path.name[1:]) for path in folder.glob("v*") if path.name[1:].isdigit())]
