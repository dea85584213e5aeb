"""The sparse checkpoint: packed mask bits and surviving values in safetensors, with digests.

    sparse.safetensors   per pruned matrix W: `W.mask` (packed bits, uint8) and `W.values` (survivors, row-major);
                         every other tensor as it is
    config.json, tokenizer files
    sau.json             the manifest: digests, structure, sparsity, sizes, and the SHA-256 of every file

With compression the weights file is sparse.safetensors.planes.zst: the same bytes as byte planes below zstd. Of a model
that several processes share each writes a file of its rows (`sau.checkpoint.shards`).

Four digests, all SHA-256:

    weights_digest    of the stored numbers: name, dtype, shape and bytes of every tensor, masks included. What a
                      verdict, the lineage and a reproduction speak of; whatever file holds the numbers
    mask_digest       of the mask alone
    side_digest       of what else makes a model answer as it does: prompt, and the bytes of config and tokenizer files
    manifest_digest   of the manifest, so of every byte in the folder: what a delta leads from and to

The weights file is not called model.safetensors on purpose: stock `from_pretrained` would open it with every pruned
matrix freshly random; this way it finds no weights and refuses. Open it with `open_model`, or `export` a dense folder
for other tools.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from sau.checkpoint.digests import file_sha256, side_digest, tensors_digest
from sau.checkpoint.manifest import (
    DENSE,
    DTYPES,
    FORMAT,
    FORMAT_VERSION,
    PACKED,
    SHARDED_VERSION,
    WEIGHTS,
    SparseCheckpoint,
    beside_weights,
    check_files,
    is_sparse,
    is_weights,
    read_manifest,
    shard_name,
    stored_tensors,
)
from sau.checkpoint.planes import read_chunks, squeeze
from sau.checkpoint.shards import joined, masks_of
from sau.config import Section
from sau.errors import CheckpointError, ModelError
from sau.files import put
from sau.mask import Mask, check_zeros, mask_digest, pack, sparsity, unpack
from sau.models.dense import model_from_state, open_dense, stored_state, write_side_files
from sau.models.folder import SIDECAR, check_sizes, config_of, served_of
from sau.models.language_model import LanguageModel, quiet
from sau.models.ranks import ALONE, ranks_of
from sau.models.rounding import round_to


class PackageParams(Section):
    """How a checkpoint is stored; `rounding` is how its numbers come to two bytes (`sau.models.rounding`)."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    rounding: Literal["nearest", "stochastic"] = "stochastic"
    compression: Literal["none", "zstd"] = "none"


FULL_PRECISION = PackageParams()


def save_sparse(
    lm: LanguageModel, folder: Path, *, structure: str, package: PackageParams = FULL_PRECISION, seed: int = 0
) -> SparseCheckpoint:
    """Store a masked model; its bytes are a function of the model and of how many processes share it.

    Its digests of weights and mask are of the model alone. The manifest comes last: a folder without one is no
    checkpoint.

    Args:
        lm: a model with a mask, whose pruned weights have to be +0.0 exactly; one without only as `dense`. One that
            several processes share is stored by all of them, each its own rows.
        folder: created; has to be empty or absent. Of several processes: one that all of them see.
        structure: the pattern the mask follows, for the record.
        package: dtype, rounding and compression; two bytes a number halve the file and change a model that was not
            stored so (verify it again).
        seed: of a rounding that draws.

    Raises:
        CheckpointError: no mask, the folder holds files already, or `package` of a model that is shared.
        SparsityError: a pruned weight is not +0.0.
    """
    if (lm.mask is None) != (structure == DENSE):
        raise CheckpointError("a sparse checkpoint needs a mask, this model is dense" if not lm.mask else "not dense")
    ranks = ranks_of(lm.model) if ranks_of(lm.model).in_step else ALONE
    if ranks.size > 1 and package != FULL_PRECISION:
        raise CheckpointError("several processes store float32 without compression: package it on one")
    mask = lm.mask or {}
    if ranks.agreed(folder.exists() and any(folder.iterdir())):
        raise CheckpointError(f"{folder}: not empty")
    check_zeros(ranks.own(lm.model), mask)
    folder.mkdir(parents=True, exist_ok=True)
    state = round_to(stored_state(lm.model), DTYPES[package.dtype], package.rounding, seed=seed)
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        if name in mask:
            kept_OI = mask[name].cpu()
            tensors[f"{name}.mask"] = torch.from_numpy(pack(kept_OI))
            tensors[f"{name}.values"] = value[kept_OI]
        else:
            tensors[name] = value.contiguous()
    file = folder / (shard_name(ranks.rank, ranks.size) if ranks.size > 1 else WEIGHTS)
    save_file(tensors, file, metadata={"format": FORMAT})
    if package.compression == "zstd":
        squeeze(read_chunks(file), folder / PACKED, itemsize=DTYPES[package.dtype].itemsize)
        file.unlink()
        file = folder / PACKED
    outline = ranks.outline(lm.model)
    whole = outline.state_dict()
    more: dict[str, Any] = {"dense_bytes": sum(whole[name].numel() * x.element_size() for name, x in state.items())}
    if ranks.size > 1:
        rows = {name: len(own) for name, own in ranks.own(lm.model).items() if name in state}
        of_all = [part for _, part in sorted(ranks.merged({ranks.rank: rows}).items())]
        more["rows"] = {name: [part[name] for part in of_all] for name in sorted(rows)}
        if not ranks.rank:
            shapes = {name: tuple(whole[name].shape) for name in mask}
            parts = joined([folder / shard_name(i, ranks.size) for i in range(ranks.size)], more["rows"], shapes)
            _describe(replace(lm, model=outline), folder, structure, package, parts, masks_of(parts, shapes), more)
        ranks.agreed(None)  # the manifest is there
    else:
        _describe(lm, folder, structure, package, tensors, mask, more)
    return read_manifest(folder)


def _describe(
    lm: LanguageModel,
    folder: Path,
    structure: str,
    package: PackageParams,
    tensors: Mapping[str, Tensor],
    mask: Mapping[str, Tensor],
    more: dict[str, Any],
) -> None:
    """Write the other files and the manifest beside weights that are there, holding one tensor at a time."""
    write_side_files(lm, folder)
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    shapes = {name: list(kept.shape) for name, kept in sorted(mask.items())}
    manifest: dict[str, Any] = more | {
        "format": FORMAT,
        "format_version": SHARDED_VERSION if "rows" in more else FORMAT_VERSION,
        "prompt": lm.prompt,
        "structure": structure,
        "sparsity": sparsity(mask),
        "weights_digest": tensors_digest(tensors),
        "mask_digest": mask_digest(mask),
        "side_digest": side_digest(lm.prompt, beside_weights(files)),
        "shapes": shapes,
        "num_weights": sum(math.prod(shape) for shape in shapes.values()),
        "num_nonzeros": sum(int(kept.sum()) for kept in mask.values()),
        "num_bytes": sum((folder / name).stat().st_size for name in files if is_weights(name)),
        "dtype": package.dtype,
        "files": files,
    }
    if lm.served:
        manifest["served"] = {"max_shard_bytes": lm.served.max_shard_bytes}
    aside = folder / f"{SIDECAR}.part"
    aside.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    put(aside, folder / SIDECAR)


def open_sparse(folder: str | Path) -> LanguageModel:
    """Open a sparse checkpoint as an ordinary transformers model (float32, zeros in place) with its mask.

    Every file's digest is checked first; values come back bit for bit.

    Raises:
        CheckpointError: damaged, incomplete, or keys missing or unexpected.
    """
    manifest = check_files(folder)
    raw = json.loads((Path(folder) / SIDECAR).read_bytes())
    shapes: dict[str, list[int]] = raw["shapes"]
    state: dict[str, Tensor] = {}
    mask: Mask = {}
    try:
        tensors = stored_tensors(Path(folder), manifest)
        if tensors_digest(tensors) != manifest.weights_digest:
            raise CheckpointError(f"{folder}: the weights are not those of the manifest")
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
            value = tensors[name]
            state[name] = value.float() if value.is_floating_point() else value
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: its weights are not readable ({type(error).__name__})") from None
    if mask_digest(mask) != manifest.mask_digest:
        raise CheckpointError(f"{folder}: the mask is not the one of the manifest")
    try:
        check_sizes(config_of(Path(folder)), {name: tuple(value.shape) for name, value in state.items()}, str(folder))
        with quiet():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = model_from_state(config, state)
    except ModelError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    except Exception as error:  # of a damaged folder transformers and tokenizers raise some twenty unrelated types
        raise CheckpointError(f"{folder}: cannot be opened ({type(error).__name__})") from None
    served = served_of(Path(folder), raw["served"]["max_shard_bytes"]) if "served" in raw else None
    return LanguageModel(model, tokenizer, raw["prompt"], mask or None, served)


def open_model(source: str | Path, *, prompt: str = "auto") -> LanguageModel:
    """Open a sparse checkpoint, a dense Hugging Face folder, or a hub id.

    Args:
        prompt: of a model whose folder does not say, see `sau.models.prompts.as_prompt`.

    Raises:
        CheckpointError, ModelError: see `open_sparse` and `sau.models.sources.base_model`.
    """
    return open_sparse(source) if is_sparse(source) else open_dense(source, prompt=prompt)
