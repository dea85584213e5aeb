"""params.yaml as frozen models: everything that changes a number in the result, and nothing else."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from sau.checkpoint.planes import read_chunks, squeeze, unsqueeze
from sau.checkpoint.rounding import round_to
from sau.config import Section
from sau.errors import CheckpointError, ModelError
from sau.mask import Mask, check_mask, mask_digest, pack, sparsity, unpack
from sau.models.dense import model_from_state, open_dense, save_dense
from sau.models.language_model import SIDECAR, LanguageModel, quiet
from sau.models.sources import ModelParams


class PackageParams(Section):
    """How the sparse checkpoint is stored; `rounding` is how its numbers come to bfloat16 (`sau.checkpoint.rounding`)."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    rounding: Literal["nearest", "stochastic"] = "stochastic"
    compression: Literal["none", "zstd"] = "none"


WEIGHTS = "sparse.safetensors"

PACKED = "sparse.safetensors.planes.zst"

FORMAT = "sau-sparse"

FORMAT_VERSION = 1

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

FULL_PRECISION = PackageParams()


@dataclass(frozen=True)
class SparseCheckpoint:
    """What a stored checkpoint says of itself."""

    digest: str
    mask_digest: str
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
    def itemsize(self) -> int:
        """Bytes per stored number."""
        return DTYPES[self.dtype].itemsize


def save_sparse(
    lm: LanguageModel, folder: Path, *, structure: str, package: PackageParams = FULL_PRECISION, seed: int = 0
) -> SparseCheckpoint:
    """Store a masked model; its bytes are a function of the model alone.

    Args:
        lm: a model with a mask; its pruned weights have to be +0.0 exactly.
        folder: created; has to be empty or absent.
        structure: the pattern the mask follows, for the record.
        package: dtype, rounding and compression; bfloat16 halves the file and changes the model (verify it again).
        seed: of a rounding that draws.

    Raises:
        CheckpointError: no mask, or the folder holds files already.
        SparsityError: a pruned weight is not +0.0.
    """
    if lm.mask is None:
        raise CheckpointError("a sparse checkpoint needs a mask, this model is dense")
    if folder.exists() and any(folder.iterdir()):
        raise CheckpointError(f"{folder}: not empty")
    check_mask(lm.model, lm.mask)
    folder.mkdir(parents=True, exist_ok=True)
    state = round_to(_stored_state(lm.model), DTYPES[package.dtype], package.rounding, seed=seed)
    tensors: dict[str, Tensor] = {}
    dense_bytes = 0
    for name, value in state.items():
        dense_bytes += value.numel() * value.element_size()
        if name in lm.mask:
            kept_OI = lm.mask[name].cpu()
            tensors[f"{name}.mask"] = torch.from_numpy(pack(kept_OI))
            tensors[f"{name}.values"] = value[kept_OI]
        else:
            tensors[name] = value.contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": FORMAT})
    if package.compression == "zstd":
        squeeze(read_chunks(folder / WEIGHTS), folder / PACKED, itemsize=DTYPES[package.dtype].itemsize)
        (folder / WEIGHTS).unlink()
    with quiet():
        lm.model.config.save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    num_weights = sum(kept.numel() for kept in lm.mask.values())
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "prompt": lm.prompt,
        "structure": structure,
        "sparsity": sparsity(lm.mask),
        "mask_digest": mask_digest(lm.mask),
        "shapes": {name: list(kept.shape) for name, kept in sorted(lm.mask.items())},
        "num_weights": num_weights,
        "num_nonzeros": sum(int(kept.sum()) for kept in lm.mask.values()),
        "num_bytes": (folder / (PACKED if package.compression == "zstd" else WEIGHTS)).stat().st_size,
        "dense_bytes": dense_bytes,
        "dtype": package.dtype,
        "files": files,
    }
    (folder / SIDECAR).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return read_manifest(folder)


def _stored_state(model: Any) -> dict[str, Tensor]:
    """The state dict without tied copies, on the CPU."""
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    return {name: value.detach().cpu() for name, value in state.items()}


def is_sparse(folder: str | Path) -> bool:
    """True where the folder is a sparse checkpoint of ours."""
    return any((Path(folder) / name).is_file() for name in (WEIGHTS, PACKED))


def read_manifest(folder: str | Path) -> SparseCheckpoint:
    """What the checkpoint says of itself, without opening the weights.

    Raises:
        CheckpointError: no manifest, or one of another format.
    """
    path = Path(folder) / SIDECAR
    try:
        raw = path.read_bytes()
        manifest = json.loads(raw)
        if (manifest["format"], manifest["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise CheckpointError(
                f"{path}: format {manifest['format']!r}, {FORMAT!r} version {FORMAT_VERSION} is needed"
            )
        fields = {key: manifest[key] for key in SparseCheckpoint.__dataclass_fields__ if key != "digest"}
        if odd := [name for name in fields["files"] if Path(name).name != name]:
            raise CheckpointError(f"{path}: {odd[0]!r} is no file name")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: no manifest of a sparse checkpoint ({type(error).__name__})") from None
    return SparseCheckpoint(digest=hashlib.sha256(raw).hexdigest(), **fields)


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
        if file_sha256(Path(folder) / name) != expected:
            raise CheckpointError(f"{folder}/{name}: its bytes are not those of the manifest")
    return manifest


def open_sparse(folder: str | Path) -> LanguageModel:
    """Open a sparse checkpoint as an ordinary transformers model (float32, zeros in place) with its mask.

    Every file's digest is checked first; values come back bit for bit.

    Raises:
        CheckpointError: damaged, incomplete, or keys missing or unexpected.
    """
    manifest = check_files(folder)
    raw = json.loads((Path(folder) / SIDECAR).read_text())
    shapes: dict[str, list[int]] = raw["shapes"]
    state: dict[str, Tensor] = {}
    mask: Mask = {}
    try:
        tensors = _tensors(Path(folder), manifest)
        expected = {f"{name}.{part}" for name in shapes for part in ("mask", "values")}
        if missing := sorted(expected - tensors.keys()):
            raise CheckpointError(f"{folder}: missing tensors: {', '.join(missing[:5])}")
        for name, shape in shapes.items():
            kept_OI = unpack(tensors[f"{name}.mask"].numpy(), tuple(shape))
            values = tensors[f"{name}.values"].float()
            if values.numel() != int(kept_OI.sum()):
                raise CheckpointError(
                    f"{folder}: {name}: {values.numel()} values for {int(kept_OI.sum())} kept weights"
                )
            weight_OI = torch.zeros(tuple(shape))
            weight_OI[kept_OI] = values
            state[name], mask[name] = weight_OI, kept_OI
        for name in sorted(tensors.keys() - expected):
            state[name] = tensors[name].float()
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{folder}/{manifest.weights_file}: not readable ({type(error).__name__})") from None
    if mask_digest(mask) != manifest.mask_digest:
        raise CheckpointError(f"{folder}: the mask is not the one of the manifest")
    with quiet():
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    try:
        model = model_from_state(config, state)
    except ModelError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    return LanguageModel(model, tokenizer, raw["prompt"], mask)


def _tensors(folder: Path, manifest: SparseCheckpoint) -> dict[str, Tensor]:
    """Everything in the weights file, by name."""
    if manifest.weights_file == WEIGHTS:
        return load_file(folder / WEIGHTS)
    return load(b"".join(raw_weights(folder, manifest)))


def raw_weights(folder: Path, manifest: SparseCheckpoint) -> Iterator[bytes]:
    """The bytes of the weights file without compression, CHUNK_BYTES at a time.

    Raises:
        CheckpointError: a damaged compressed file.
    """
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


def open_model(source: str | Path, *, prompt: str = ModelParams.model_fields["prompt"].default) -> LanguageModel:
    """Open a sparse checkpoint, a dense Hugging Face folder, or a hub id.

    Raises:
        CheckpointError, ModelError: see `open_sparse` and `sau.models.sources.base_model`.
    """
    return open_sparse(source) if is_sparse(source) else open_dense(source, prompt=prompt)


def export(
    folder: str | Path, target: Path, *, dtype: str = "float32", rounding: str = FULL_PRECISION.rounding, seed: int = 0
) -> None:
    """Write a sparse checkpoint as a dense Hugging Face folder for stock tools.

    Args:
        dtype: bfloat16 makes another model of a float32 checkpoint: a verdict on this one does not speak of it.
        rounding, seed: how numbers come to a narrower dtype, see `sau.checkpoint.rounding`.

    Raises:
        CheckpointError: the target exists and is not empty, or the checkpoint is damaged.
    """
    if target.exists() and any(target.iterdir()):
        raise CheckpointError(f"{target}: not empty")
    lm = open_sparse(folder)
    rounded = round_to(_stored_state(lm.model), DTYPES[dtype], rounding, seed=seed)
    lm.model = model_from_state(lm.model.config, rounded, dtype=DTYPES[dtype])
    save_dense(lm, target)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
