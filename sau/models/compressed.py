"""Weights whose zeros `compressed-tensors` has packed as bitmasks, made plain by that library where it still does.

Versions from 0.15 on no longer do. Names of formats come out of a file: they are looked up here, never handed to the
library, which has run what such a name pointed at.
"""

import importlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sau.errors import ModelError

_FORMATS = {
    "dense": "",
    "sparse-bitmask": "sparse_bitmask.bitmask_decompress",
    "sparse-24-bitmask": "sparse_24_bitmask.sparse24_bitmask_decompress",
}
"""Of compressed-tensors; what makes a matrix of one plain, in its `compressors.sparse_compressors`."""

_KEYS = ("quantization_config", "compression_config")
_PART = re.compile(r"^(.+)\.(shape|compressed|bitmask|row_offsets)$")

Decompress = Callable[[Tensor, Tensor, list[int]], Tensor]
"""(values, bitmasks, shape) -> matrix."""


def packed_as(config: Mapping[str, Any]) -> str | None:
    """How the zeros are stored of a model with this config.json: a format, or None where nothing is compressed."""
    said = _said(config)
    if said is None:
        return None
    sparse = said.get("sparsity_config") or {}
    return str(sparse.get("format", "dense")) if isinstance(sparse, dict) else "an unknown one"


def why_not_plain(config: Mapping[str, Any]) -> str | None:
    """Why weights of this config.json cannot be made plain here; None where they can, or are."""
    if (said := _said(config)) is None:
        return None
    method, packed = said.get("quant_method", "an unnamed method"), packed_as(config)
    if method != "compressed-tensors" or said.get("config_groups") or said.get("format", "dense") not in _FORMATS:
        return f"its weights are quantised ({method}); save it dequantised, in bfloat16 or float32"
    if packed not in _FORMATS:
        return f"its weights are compressed ({method}, in a format that is not known); save it with its zeros in place"
    if packed != "dense" and _decompress(packed) is None:
        return (
            f"its weights are compressed ({method}, {packed}), which its versions from 0.15 on no longer read; "
            "pip install --no-deps 'compressed-tensors<0.15' loguru, or save it with its zeros in place where such a "
            "version is"
        )
    return None


def make_plain(source: Path, names: tuple[str, ...], target: Path) -> None:
    """Write weights files with the zeros in their place, under their names, and their index anew.

    Args:
        source, names: the files, as they are.
        target: a folder that has the config.json already, which stops saying that anything is compressed.

    Raises:
        ModelError: a part of a matrix is missing, or a file is damaged.
    """
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    decompress, places = _decompress(str(packed_as(config))), _places(source, names)
    packed = sorted({match[1] for name in places if (match := _PART.match(name))})
    if decompress is None and packed:
        raise ModelError(f"{source}: {packed[0]} is compressed, and the config says that nothing is")
    index: dict[str, str] = {}
    for file in names:
        tensors = {name: _read(source, places, name) for name in places if places[name] == file}
        for matrix in packed:
            if decompress and f"{matrix}.compressed" in tensors:
                shape, values, bits = (
                    _read(source, places, f"{matrix}.{part}") for part in ("shape", "compressed", "bitmask")
                )
                tensors[f"{matrix}.weight"] = _made_plain(matrix, decompress, values, bits, shape)
        plain = {name: value for name, value in tensors.items() if not _PART.match(name)}
        save_file(plain, target / file, {"format": "pt"})
        index |= dict.fromkeys(plain, file)
    if len(names) > 1:
        text = json.dumps({"metadata": {}, "weight_map": dict(sorted(index.items()))}, indent=1)
        (target / "model.safetensors.index.json").write_text(text + "\n", encoding="utf-8")
    text = json.dumps({key: value for key, value in config.items() if key not in _KEYS}, indent=2, ensure_ascii=False)
    (target / "config.json").write_text(text + "\n", encoding="utf-8")


def _said(config: Mapping[str, Any]) -> dict[str, Any] | None:
    said = next((config[key] for key in _KEYS if config.get(key)), None)
    return said if said is None or isinstance(said, dict) else {}


def _decompress(packed: str) -> Decompress | None:
    """What reads a format; None where nothing has to, or the library that did is not here."""
    if not (place := _FORMATS.get(packed)):
        return None
    module, _, name = place.partition(".")
    try:
        return getattr(importlib.import_module(f"compressed_tensors.compressors.sparse_compressors.{module}"), name)
    except (ImportError, AttributeError):
        return None


def _made_plain(name: str, decompress: Decompress, values: Tensor, bits: Tensor, shape: Tensor) -> Tensor:
    try:
        return decompress(values, bits, shape.flatten().tolist()).contiguous()
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise ModelError(f"{name}: its values and its bitmask do not fit together ({type(error).__name__})") from None


def _places(source: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Which file each tensor is in."""
    places: dict[str, str] = {}
    for file in names:
        try:
            with safe_open(source / file, "pt") as opened:
                places |= dict.fromkeys(opened.keys(), file)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{source}/{file}: not readable ({type(error).__name__})") from None
    return places


def _read(source: Path, places: Mapping[str, str], name: str) -> Tensor:
    if name not in places:
        raise ModelError(f"{source}: {name} is missing")
    with safe_open(source / places[name], "pt") as opened:
        return opened.get_tensor(name)
