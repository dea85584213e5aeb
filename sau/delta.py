"""A version as its difference from another: what somebody needs who has v2 and wants v3, and how old versions are kept.

    sau.json                          the whole checkpoint's own manifest, so the model digest is the same either way
    delta.json                        digests of the base and of the mask
    sparse.safetensors.xor.planes.zst weights file XOR the base's, byte planes, zstd
    ...                               every other file that is not the base's

With one mask both weights files have one layout, so their XOR is that of the survivors' bit patterns: zero where a
weight did not move, small where it moved little, and exact whatever library wrote the files. A delta applied gives the
whole folder, every file of which is compared with the manifest.

An archive is a folder of a line's versions, the newest whole and older ones as deltas on the next: what is asked for
most is there at once, and the oldest, which still knows the people that later ones forgot, can be deleted any time.
"""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from sau.checkpoint import (
    SparseCheckpoint,
    check_files,
    raw_weights,
    read_manifest,
    write_raw_weights,
)
from sau.errors import CheckpointError
from sau.models import SIDECAR
from sau.planes import squeeze, unsqueeze

DELTA = "delta.json"
PATCH = "sparse.safetensors.xor.planes.zst"
FORMAT = "sau-delta"
FORMAT_VERSION = 1


class UnlikeError(CheckpointError):
    """Two checkpoints have no delta: another mask, dtype or other tensors."""


@dataclass(frozen=True)
class Delta:
    """What a stored delta says of itself: the model digests it leads from and to, and the mask they share."""

    base_digest: str
    model_digest: str
    mask_digest: str


def is_delta(folder: str | Path) -> bool:
    """True where the folder is a delta of ours."""
    return (Path(folder) / DELTA).is_file()


def read_delta(folder: str | Path) -> Delta:
    """What the delta says of itself.

    Raises:
        CheckpointError: no delta, or one of another format or for another manifest than lies beside it.
    """
    path = Path(folder) / DELTA
    try:
        stored = json.loads(path.read_bytes())
        if (stored["format"], stored["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise CheckpointError(f"{path}: format {stored['format']!r}, {FORMAT!r} version {FORMAT_VERSION} is needed")
        delta = Delta(**{key: str(stored[key]) for key in Delta.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: no manifest of a delta ({type(error).__name__})") from None
    if read_manifest(folder).digest != delta.model_digest:
        raise CheckpointError(f"{folder}: {SIDECAR} is not that of model {delta.model_digest}")
    return delta


def save_delta(folder: Path, base: Path, target: Path) -> Delta:
    """Write checkpoint `folder` as its difference from checkpoint `base`.

    Raises:
        UnlikeError: the two differ in mask, dtype or tensors.
        CheckpointError: either is damaged, or the target is not empty.
    """
    new, old = check_files(folder), check_files(base)
    _check_alike(folder, new, old)
    delta = Delta(old.digest, new.digest, new.mask_digest)
    with _whole(target) as part:
        squeeze(_xor(raw_weights(folder, new), raw_weights(base, old)), part / PATCH, itemsize=new.itemsize)
        for name in _changed(new, old):
            shutil.copyfile(folder / name, part / name)
        shutil.copyfile(folder / SIDECAR, part / SIDECAR)
        stored = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(delta)}
        (part / DELTA).write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
    return delta


def apply_delta(folder: Path, base: Path, target: Path) -> SparseCheckpoint:
    """Write the whole checkpoint that delta `folder` makes of checkpoint `base`, and check its every file.

    Raises:
        CheckpointError: the base is another model than the delta's or damaged, the delta is damaged, or the target
            is not empty; nothing is left at the target.
    """
    delta, new, old = read_delta(folder), read_manifest(folder), check_files(base)
    if old.digest != delta.base_digest:
        raise CheckpointError(f"{base}: model digest {old.digest}, this delta needs base {delta.base_digest}")
    _check_alike(folder, new, old)
    with _whole(target) as part:
        patch = unsqueeze(folder / PATCH, itemsize=new.itemsize)
        write_raw_weights(_xor(patch, raw_weights(base, old)), part, new)
        for name in new.files.keys() - {new.weights_file}:
            shutil.copyfile((folder if name in _changed(new, old) else base) / name, part / name)
        shutil.copyfile(folder / SIDECAR, part / SIDECAR)
        return check_files(part)


def restore(folder: Path, target: Path) -> SparseCheckpoint:
    """Write version `folder` of an archive as a whole checkpoint and check its every file.

    Raises:
        CheckpointError: a version it is stored as a delta on is missing, something is damaged, or the target is not
            empty; nothing is left at the target.
    """
    *deltas, whole = _chain(folder)
    if not deltas:
        with _whole(target) as part:
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
    with _whole(newest) as part:
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
    beside = {read_manifest(path).digest: path for path in _versions(folder.parent)}
    chain = [folder]
    while is_delta(chain[-1]):
        base = read_delta(chain[-1]).base_digest
        if base not in beside or beside[base] in chain:
            raise CheckpointError(f"{chain[-1]}: is stored as a delta on model {base}, which is not beside it")
        chain.append(beside[base])
    return chain


def _hops_onto(archive: Path, whole: Path) -> int:
    """The most deltas that any version of the archive needs onto this one."""
    chains = [_chain(version) for version in _versions(archive)]
    return max(chain.index(whole) for chain in chains if whole in chain)


def _versions(archive: Path) -> list[Path]:
    return sorted(path.parent for path in archive.glob(f"[!.]*/{SIDECAR}"))


def _check_alike(folder: Path, new: SparseCheckpoint, old: SparseCheckpoint) -> None:
    for what in ("mask_digest", "dtype"):
        if (wanted := getattr(old, what)) != (found := getattr(new, what)):
            raise UnlikeError(f"{folder}: a delta needs the base's {what} {wanted}, it has {found}")


def _changed(new: SparseCheckpoint, old: SparseCheckpoint) -> list[str]:
    """Files beside the weights that are not the base's."""
    return sorted(n for n, digest in new.files.items() if n != new.weights_file and old.files.get(n) != digest)


def _xor(ones: Iterator[bytes], others: Iterator[bytes]) -> Iterator[bytes]:
    """Chunk by chunk.

    Raises:
        UnlikeError: one is longer than the other.
    """
    for one, other in zip_longest(ones, others, fillvalue=b""):
        if len(one) != len(other):
            raise UnlikeError("a delta needs weights files of one length: the tensors differ")
        yield np.bitwise_xor(np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8)).tobytes()


@contextlib.contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A folder that appears at `target` complete or not at all.

    Raises:
        CheckpointError: the target is not empty; or a file that was to be read is not there.
    """
    if target.exists() and any(target.iterdir()):
        raise CheckpointError(f"{target}: not empty")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        part = Path(scratch) / "part"
        part.mkdir()
        try:
            yield part
        except FileNotFoundError as error:
            raise CheckpointError(f"{error.filename}: missing") from None
        part.replace(target)
