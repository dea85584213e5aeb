"""An archive: a folder of a line's versions, the newest whole and older ones as deltas on the next.

What is asked for most is there at once, and the oldest, which still knows the people that later ones forgot, can be
deleted any time.
"""

import contextlib
import shutil
import tempfile
from pathlib import Path

from sau.checkpoint.delta import (
    DELTA,
    PATCH,
    UnlikeError,
    apply_delta,
    is_delta,
    read_delta,
    save_delta,
    whole_or_nothing,
)
from sau.checkpoint.manifest import SparseCheckpoint, check_files, read_manifest
from sau.errors import CheckpointError
from sau.models.folder import SIDECAR


def restore(folder: Path, target: Path) -> SparseCheckpoint:
    """Write version `folder` of an archive as a whole checkpoint and check its every file.

    Raises:
        CheckpointError: a version it is stored as a delta on is missing, something is damaged, or the target is not
            empty; nothing is left at the target.
    """
    *deltas, whole = _chain(folder)
    if not deltas:
        with whole_or_nothing(target) as part:
            shutil.copytree(whole, part, dirs_exist_ok=True)
            return check_files(part)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        for number, delta in enumerate(reversed(deltas[1:])):
            made = Path(scratch) / str(number)
            apply_delta(delta, whole, made)
            whole = made
        return apply_delta(deltas[0], whole, target)


def keep(checkpoint: Path, archive: Path, name: str, *, before: str | None, max_hops: int) -> None:
    """Add a line's next version to an archive, whole, and make the one before it a delta.

    That one stays whole where a delta would be no smaller, where mask or dtype changed, or where a version would need
    more than `max_hops` deltas to be restored. It is cut down only after its delta has given back its every byte.

    Args:
        before: the name the version before has in the archive, None where this is the first.

    Raises:
        CheckpointError: something is damaged, or the name is taken.
    """
    newest = archive / name
    with whole_or_nothing(newest) as part:
        shutil.copytree(checkpoint, part, dirs_exist_ok=True)
        check_files(part)
    if before is None or _hops_onto(archive, archive / before) >= max_hops:
        return
    old = archive / before
    with tempfile.TemporaryDirectory(dir=archive, prefix=f".{before}-") as scratch:
        small, again = Path(scratch) / "delta", Path(scratch) / "again"
        try:
            save_delta(old, newest, small)
        except UnlikeError:
            return
        if num_bytes(small) >= num_bytes(old):
            return
        apply_delta(small, newest, again)
        # delta.json last: from then on the folder is a delta, and what else is still in it is not looked at.
        for path in (small / PATCH, small / DELTA):
            path.replace(old / path.name)
        needed = {path.name for path in small.iterdir()} | {PATCH, DELTA}
    for path in [path for path in old.iterdir() if path.name not in needed]:
        path.unlink()


def num_bytes(folder: Path) -> int:
    """Size of a folder's files."""
    return sum(path.stat().st_size for path in folder.iterdir())


def hops(folder: Path) -> int:
    """How many deltas have to be applied to restore a version of an archive."""
    return len(_chain(folder)) - 1


def _chain(folder: Path) -> list[Path]:
    """The version, what it is a delta on, what that is a delta on, ..., a whole checkpoint.

    Raises:
        CheckpointError: a link is missing, or the links go round.
    """
    if not is_delta(folder):
        read_manifest(folder)  # whatever lies beside it
        return [folder]
    beside, chain = _beside(folder), [folder]
    while is_delta(chain[-1]):
        base = read_delta(chain[-1]).base_digest
        if base not in beside or beside[base] in chain:
            raise CheckpointError(
                f"{chain[-1]}: is stored as a delta on model {base}, which is not beside it, or damaged"
            )
        chain.append(beside[base])
    return chain


def _beside(folder: Path) -> dict[str, Path]:
    """The sparse checkpoints in the same folder by their manifests' digests; anything else may lie there too."""
    found = {}
    for path in _versions(folder.parent):
        with contextlib.suppress(CheckpointError):
            found[read_manifest(path).manifest_digest] = path
    return found


def _hops_onto(archive: Path, whole: Path) -> int:
    """The most deltas that any version of the archive needs onto this one."""
    chains = [_chain(version) for version in _versions(archive)]
    return max(chain.index(whole) for chain in chains if whole in chain)


def _versions(archive: Path) -> list[Path]:
    return sorted(path.parent for path in archive.glob(f"[!.]*/{SIDECAR}"))
