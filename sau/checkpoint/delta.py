"""A version as its difference from another: what somebody needs who has v2 and wants v3, and how old versions are kept.

    sau.json                          the whole checkpoint's own manifest, so all digests are the same either way
    delta.json                        digests of the base and of the mask
    sparse.safetensors.xor.planes.zst weights file XOR the base's, byte planes, zstd
    ...                               every other file that is not the base's

With one mask both weights files have one layout, so their XOR is that of the survivors' bit patterns: zero where a
weight did not move, small where it moved little, and exact whatever library wrote the files. A delta applied gives the
whole folder, every file of which is compared with the manifest.
"""

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from sau.checkpoint.manifest import (
    MAX_BYTES,
    SparseCheckpoint,
    check_files,
    raw_weights,
    read_manifest,
    write_raw_weights,
)
from sau.checkpoint.planes import squeeze, unsqueeze
from sau.errors import CheckpointError
from sau.files import read_bounded
from sau.models.folder import SIDECAR

DELTA = "delta.json"

PATCH = "sparse.safetensors.xor.planes.zst"

FORMAT = "sau-delta"
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")

FORMAT_VERSION = 1


class UnlikeError(CheckpointError):
    """Two checkpoints have no delta: another mask, dtype or other tensors."""


@dataclass(frozen=True)
class Delta:
    """What a stored delta says of itself: the manifest digests it leads from and to, and the mask they share."""

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
        stored = json.loads(read_bounded(path, MAX_BYTES))
        if (stored["format"], stored["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise CheckpointError(f"{path}: another format, {FORMAT!r} version {FORMAT_VERSION} is needed")
        delta = Delta(**{key: str(stored[key]) for key in Delta.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: no manifest of a delta ({type(error).__name__})") from None
    if odd := [name for name, digest in asdict(delta).items() if not _DIGEST.match(digest)]:
        raise CheckpointError(f"{path}: {odd[0]} is no digest")
    if read_manifest(folder).manifest_digest != delta.model_digest:
        raise CheckpointError(f"{folder}: {SIDECAR} is not manifest {delta.model_digest}")
    return delta


def save_delta(folder: Path, base: Path, target: Path, *, tried: bool = False) -> Delta:
    """Write checkpoint `folder` as its difference from checkpoint `base`.

    Args:
        tried: apply it once, aside, before it appears at the target.

    Raises:
        UnlikeError: the two differ in mask, dtype or tensors.
        CheckpointError: either is damaged, or the target is not empty.
    """
    new, old = check_files(folder), check_files(base)
    _check_alike(folder, new, old)
    delta = Delta(old.manifest_digest, new.manifest_digest, new.mask_digest)
    with whole_or_nothing(target) as part:
        squeeze(_xor(raw_weights(folder, new), raw_weights(base, old)), part / PATCH, itemsize=new.itemsize)
        for name in _changed(new, old):
            shutil.copyfile(folder / name, part / name)
        shutil.copyfile(folder / SIDECAR, part / SIDECAR)
        stored = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(delta)}
        (part / DELTA).write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
        if tried:
            apply_delta(part, base, part.with_name("whole"))
    return delta


def apply_delta(folder: Path, base: Path, target: Path) -> SparseCheckpoint:
    """Write the whole checkpoint that delta `folder` makes of checkpoint `base`, and check its every file.

    Raises:
        CheckpointError: the base is another model than the delta's or damaged, the delta is damaged, or the target
            is not empty; nothing is left at the target.
    """
    delta, new, old = read_delta(folder), read_manifest(folder), check_files(base)
    if old.manifest_digest != delta.base_digest:
        raise CheckpointError(
            f"{base}: manifest digest {old.manifest_digest}, this delta needs base {delta.base_digest}"
        )
    _check_alike(folder, new, old)
    with whole_or_nothing(target) as part:
        patch = unsqueeze(folder / PATCH, itemsize=new.itemsize)
        write_raw_weights(_xor(patch, raw_weights(base, old)), part, new)
        for name in new.files.keys() - {new.weights_file}:
            shutil.copyfile((folder if name in _changed(new, old) else base) / name, part / name)
        shutil.copyfile(folder / SIDECAR, part / SIDECAR)
        return check_files(part)


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
def whole_or_nothing(target: Path) -> Iterator[Path]:
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
        except OSError as error:
            what = error.strerror or type(error).__name__
            raise CheckpointError(f"{error.filename or target}: {what}") from None
        part.replace(target)
