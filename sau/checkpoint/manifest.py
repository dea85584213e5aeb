"""What a sparse checkpoint says of itself, its files checked against that, and the bytes of its weights."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, Field, TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor

from sau.checkpoint.digests import file_sha256, side_digest, tensors_digest
from sau.checkpoint.planes import read_chunks, squeeze, unsqueeze
from sau.checkpoint.shards import joined
from sau.errors import CheckpointError, one_line
from sau.files import read_bounded
from sau.models.folder import SIDECAR, is_file_name

WEIGHTS = "sparse.safetensors"

PACKED = "sparse.safetensors.planes.zst"

_SHARD = re.compile(r"sparse-(\d{5})-of-(\d{5})\.safetensors")

FORMAT = "sau-sparse"

FORMAT_VERSION = 2

SHARDED_VERSION = 3
"""Of one whose weights lie in several files."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

MAX_BYTES = 64 << 20
"""Of a manifest."""

_MOST_PACKED = 100
"""Weights take no less than this part of themselves when they are packed (two thirds are usual): what claims more is
made to fill the memory."""
_ALWAYS = 64 << 20

DENSE = "dense"
"""The structure of a model that has no mask yet."""


@dataclass(frozen=True)
class SparseCheckpoint:
    """What a stored checkpoint says of itself; of the digests see the module."""

    manifest_digest: str
    weights_digest: str
    mask_digest: str
    side_digest: str
    prompt: str
    structure: str
    sparsity: float
    num_weights: int
    num_nonzeros: int
    num_bytes: int
    dense_bytes: int
    dtype: str
    files: dict[str, str]

    @property
    def weights_file(self) -> str:
        return PACKED if PACKED in self.files else WEIGHTS

    @property
    def shards(self) -> list[str]:
        """The weights files in order of their rows, where there are several."""
        return sorted(filter(_SHARD.fullmatch, self.files))

    @property
    def covered(self) -> float:
        """In [0, 1], of all stored numbers: those in masked matrices, pruned or not."""
        return self.num_weights * self.itemsize / self.dense_bytes

    @property
    def itemsize(self) -> int:
        """Bytes per stored number."""
        return DTYPES[self.dtype].itemsize


class _Served(BaseModel):
    max_shard_bytes: int | None


class _More(BaseModel):
    """What the manifest says beside the fields of `SparseCheckpoint`."""

    shapes: dict[str, list[Annotated[int, Field(ge=0)]]]
    rows: dict[str, list[Annotated[int, Field(ge=0)]]] = {}
    served: _Served = _Served(max_shard_bytes=None)


_FIELDS = TypeAdapter(SparseCheckpoint)


def is_sparse(folder: str | Path) -> bool:
    """True where the folder is a sparse checkpoint of ours."""
    return any(is_weights(path.name) and path.is_file() for path in Path(folder).glob("sparse*.safetensors*"))


def read_manifest(folder: str | Path) -> SparseCheckpoint:
    """What the checkpoint says of itself, without opening the weights.

    Raises:
        CheckpointError: no manifest, or one of another format.
    """
    path = Path(folder) / SIDECAR
    try:
        raw = read_bounded(path, MAX_BYTES)
        manifest = json.loads(raw)
        if manifest["format"] != FORMAT or manifest["format_version"] not in (1, FORMAT_VERSION, SHARDED_VERSION):
            raise CheckpointError(f"{path}: another format, {FORMAT!r} version 1 to {SHARDED_VERSION} is needed")
        side = side_digest(manifest["prompt"], beside_weights(manifest["files"]))
        if manifest["format_version"] == 1:  # it had one digest for everything
            manifest |= {"weights_digest": "", "side_digest": side}
        fields = {key: manifest[key] for key in SparseCheckpoint.__dataclass_fields__ if key != "manifest_digest"}
        stored = _FIELDS.validate_python(fields | {"manifest_digest": hashlib.sha256(raw).hexdigest()})
        more = _More.model_validate(manifest, strict=True)
        if odd := [name for name in stored.files if name == SIDECAR or not is_file_name(name)]:
            raise CheckpointError(f"{path}: {one_line(odd[0])!r} is no file name")
        if stored.dtype not in DTYPES:
            raise CheckpointError(f"{path}: numbers are {', '.join(DTYPES)}, and not what it says")
        if (num := len(stored.shards)) and stored.shards != [shard_name(i, num) for i in range(num)]:
            raise CheckpointError(f"{path}: names some of its weights files only: {', '.join(stored.shards[:5])}")
        if odd := [name for name, rows in more.rows.items() if len(rows) != num]:
            raise CheckpointError(f"{path}: {one_line(odd[0])}: rows of other than its {num} weights files")
        if stored.side_digest != side:
            raise CheckpointError(f"{path}: its side digest is not that of its files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: no manifest of a sparse checkpoint ({type(error).__name__})") from None
    if stored.weights_digest or not (path.parent / stored.weights_file).is_file():  # a delta has no weights file
        return stored
    try:
        return replace(stored, weights_digest=tensors_digest(stored_tensors(path.parent, stored)))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{folder}/{stored.weights_file}: not readable ({type(error).__name__})") from None


def beside_weights(files: Mapping[str, str]) -> dict[str, str]:
    """Of a manifest's files those that hold no weights."""
    return {name: digest for name, digest in files.items() if not is_weights(name)}


def is_weights(name: str) -> bool:
    """Whether a file of that name holds weights."""
    return name in (WEIGHTS, PACKED) or _SHARD.fullmatch(name) is not None


def shard_name(number: int, num: int) -> str:
    """The name of one of so many weights files, which are numbered from 0 on."""
    return f"sparse-{number + 1:05}-of-{num:05}.safetensors"


def check_files(folder: str | Path) -> SparseCheckpoint:
    """Hash every file again and compare with the manifest.

    Raises:
        CheckpointError: a file is missing, extra or of other bytes.
    """
    manifest = read_manifest(folder)
    present = {path.name for path in Path(folder).iterdir()} - {SIDECAR}
    if odd := sorted(present ^ manifest.files.keys()):
        raise CheckpointError(f"{folder}: missing or extra files: {', '.join(odd)}")
    for name, expected in manifest.files.items():
        if not (Path(folder) / name).is_file():  # a pipe or a device has no end
            raise CheckpointError(f"{folder}/{name}: no file")
        if file_sha256(Path(folder) / name) != expected:
            raise CheckpointError(f"{folder}/{name}: its bytes are not those of the manifest")
    return manifest


def stored_tensors(folder: Path, manifest: SparseCheckpoint) -> Mapping[str, Tensor]:
    """Everything in the weights file, by name; of several files, what would be in one, when it is asked for."""
    if manifest.shards:
        more = _More.model_validate_json(read_bounded(folder / SIDECAR, MAX_BYTES))
        return joined([folder / name for name in manifest.shards], more.rows, more.shapes)
    if manifest.weights_file == WEIGHTS:
        return load_file(folder / WEIGHTS)
    most = max(_ALWAYS, _MOST_PACKED * (folder / manifest.weights_file).stat().st_size)
    chunks, size = [], 0
    for chunk in raw_weights(folder, manifest):
        chunks.append(chunk)
        if (size := size + len(chunk)) > most:
            raise ValueError(f"unpacks to more than {most} bytes")
    return load(b"".join(chunks))


def raw_weights(folder: Path, manifest: SparseCheckpoint) -> Iterator[bytes]:
    """The bytes of the weights file without compression, CHUNK_BYTES at a time.

    Raises:
        CheckpointError: a damaged compressed file, or several files.
    """
    if manifest.shards:
        raise CheckpointError(f"{folder}: its weights are in {len(manifest.shards)} files, package it first")
    path = folder / manifest.weights_file
    return unsqueeze(path, itemsize=manifest.itemsize) if path.name == PACKED else read_chunks(path)


def write_raw_weights(chunks: Iterable[bytes], folder: Path, manifest: SparseCheckpoint) -> None:
    """The inverse of `raw_weights`: the weights file in the form that the manifest names."""
    path = folder / manifest.weights_file
    if path.name == PACKED:
        squeeze(chunks, path, itemsize=manifest.itemsize)
        return
    with path.open("wb") as file:
        file.writelines(chunks)
