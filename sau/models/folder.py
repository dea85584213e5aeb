"""A model's folder by its config and its files' headers: what is refused at once, what lies beside the weights."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from sau.errors import ModelError, one_line
from sau.models.compressed import make_plain, packed_as, why_not_plain

ADAPTER = "adapter_config.json"
"""What makes a folder that of a peft adapter."""

SIDECAR = "sau.json"
"""Our own file in a folder that we wrote: prompt, and what else of a model transformers does not keep."""

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
BESIDE = (
    "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*",
    "merges.txt", "chat_template*", "*.model", "LICENSE*", "NOTICE*",
)  # fmt: skip
"""Names of what a served model has beside its weights; anything else in a folder is left where it is."""

Check = Callable[[Path, str], object]
"""(folder, how it was named): refuses one by its config, before its weights come."""

_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_OTHER_NUMBERS = {"I64", "I32", "BOOL", "U8"}
"""What buffers may be; a matrix of these is quantised."""


@dataclass(frozen=True)
class Served:
    """What a model's folder looks like to those who serve it, so that it can be given back as it was.

    Attributes:
        files: what lies beside the weights, byte for byte, by name.
        max_shard_bytes: of the largest weights file, where there are several; None where there is one.
    """

    files: dict[str, bytes]
    max_shard_bytes: int | None = None


@dataclass(frozen=True)
class Weights:
    """A folder's weights by their headers.

    Attributes:
        files: in order of name.
        shapes: of every tensor.
        dtype: float32, float16 or bfloat16, where tensors have several the one that holds them all.
        num_bytes: as stored.
        max_shard_bytes: see `Served`.
    """

    files: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    dtype: str
    num_bytes: int
    max_shard_bytes: int | None


def local_folder(source: str, *, weights: bool = True, check: Check | None = None) -> Path:
    """The folder itself, or the hub's snapshot on this machine; what can be refused is, before its weights come.

    Args:
        weights: whether those are wanted too.
        check: of a snapshot; default: `refuse_at_once`.

    Raises:
        ModelError: no folder, and no model of the hub that can be had; or what `check` refuses.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    needed = "has to be tiny, smollm2, or a causal-LM folder or hub id with safetensors weights and no remote code"
    if folder.exists() or folder.is_absolute():
        raise ModelError(f"model {source!r}: {needed} (not a folder)")
    try:
        folder = Path(snapshot_download(source, allow_patterns=[*BESIDE, "*.json"]))
        (check or refuse_at_once)(folder, source)
        if not weights:
            return folder
        return Path(snapshot_download(source, allow_patterns=[*BESIDE, "*.json", "*.safetensors"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(f"model {source!r}: {needed} ({type(error).__name__})") from None


def is_file_name(name: str) -> bool:
    """Whether a name out of somebody's file is one that a file may have in the same folder, and can be shown."""
    return 0 < len(name) <= 200 and name.isprintable() and name != ".." and Path(name).name == name


def config_of(folder: Path) -> dict[str, Any]:
    """A folder's config.json; empty where it is none."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    return {}


def refuse_at_once(folder: Path, name: str) -> None:
    """Refuse what is no model that can be taken as it is, as far as it shows without opening anything.

    Args:
        name: how the model was named.

    Raises:
        ModelError: an adapter, quantised or compressed weights, pickles, or code of its own; and what helps.
    """
    packed = packed_as(config_of(folder))
    helps = "`sau adopt` takes it in; or save it with its zeros in place and no quantization_config"
    compressed = f"its weights are compressed (compressed-tensors, {packed}); {helps}" if packed else None
    if why := _why_not(folder) or compressed:
        raise ModelError(f"model {name!r}: {why}")


def refuse_untakeable(folder: Path, name: str) -> None:
    """As `refuse_at_once`, but for what `take_folder` makes plain.

    Raises:
        ModelError: see there.
    """
    if why := _why_not(folder):
        raise ModelError(f"model {name!r}: {why}")


def _why_not(folder: Path) -> str | None:
    if (folder / ADAPTER).is_file():
        return (
            "an adapter, which is no model by itself; merge it into its base model first: `sau adopt --merge-adapter` "
            "does, by peft"
        )
    if not (config := config_of(folder)):
        return None  # which transformers says in its own words
    if why := why_not_plain(config):
        return why
    if "auto_map" in config and str(config.get("model_type")) not in CONFIG_MAPPING:
        return "it needs code of its own (remote code), which is not run; transformers has no such architecture"
    if any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
        return "its weights are pickles, which are not opened; save it as safetensors"
    return None


def read_headers(folder: Path) -> Weights:
    """What the headers of a folder's weights files say; no weight is read.

    Raises:
        ModelError: no safetensors files, one that the index names is missing or damaged, or numbers of another kind.
    """
    files = _weight_files(folder)
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: set[str] = set()
    for name in files:
        try:
            with safe_open(folder / name, "pt") as file:
                for tensor in sorted(file.keys()):
                    header = file.get_slice(tensor)
                    shapes[tensor] = tuple(header.get_shape())
                    kind = header.get_dtype()
                    if kind in _DTYPES:
                        dtypes.add(_DTYPES[kind])
                    elif kind not in _OTHER_NUMBERS or len(shapes[tensor]) > 1:
                        raise ModelError(
                            f"{folder}: {one_line(tensor)} is stored as {kind}; save it in bfloat16 or float32"
                        )
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{folder}/{name}: not readable ({type(error).__name__})") from None
    sizes = [(folder / name).stat().st_size for name in files]
    widest = "float32" if len(dtypes) > 1 else next(iter(dtypes), "float32")
    return Weights(files, shapes, widest, sum(sizes), max(sizes) if len(sizes) > 1 else None)


def _weight_files(folder: Path) -> tuple[str, ...]:
    """What transformers reads: all that the index names, else the single file."""
    if (folder / INDEX).is_file():
        try:
            named = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
            files = tuple(sorted({str(name) for name in named}))
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            raise ModelError(f"{folder}/{INDEX}: no index of safetensors files") from None
        if odd := [name for name in files if not is_file_name(name)]:
            raise ModelError(f"{folder}/{INDEX}: {one_line(odd[0])!r} is no file name")
        if missing := [name for name in files if not (folder / name).is_file()]:
            raise ModelError(
                f"{folder}: {len(missing)} of {len(files)} weights files are missing, such as {one_line(missing[0])}"
            )
        return files
    if (folder / SINGLE).is_file():
        return (SINGLE,)
    raise ModelError(f"{folder}: no {SINGLE}, and no {INDEX}: weights in any other form are not opened")


def check_takeable(source: str) -> Path:
    """Refuse by config and headers what could not be taken in; the folder, see `local_folder`.

    Raises:
        ModelError: see `refuse_untakeable` and `read_headers`; or no causal language model of transformers.
    """
    folder = local_folder(source, check=refuse_untakeable)
    refuse_untakeable(folder, source)
    if packed_as(config_of(folder)) is None:
        check_sizes(config_of(folder), read_headers(folder).shapes, source)
    kind = one_line(config_of(folder).get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise ModelError(f"model {source!r}: its config names no architecture of transformers (model_type {kind!r})")
    if CONFIG_MAPPING[kind] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(f"model {source!r}: {kind} is no causal language model in transformers")
    return folder


_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
_SIZES = ("vocab_size", "hidden_size", "head_dim")


def check_sizes(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Refuse a config of more layers, or larger ones, than there are weights: making those would fill the memory.

    Raises:
        ModelError: which size of the config's.
    """
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    for names, most in ((_LAYERS, len(shapes)), (_SIZES, largest)):
        for name in names:
            if isinstance(value := config.get(name), int) and value > most:
                raise ModelError(
                    f"model {source!r}: its config says {name} {value:.6g}, its weights have {most} at most"
                )


def served_of(folder: Path, max_shard_bytes: int | None) -> Served:
    """What lies beside a folder's weights."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and is_beside(path.name))
    return Served({path.name: path.read_bytes() for path in files}, max_shard_bytes)


def is_beside(name: str) -> bool:
    """Whether a file of this name belongs to a served model beside its weights."""
    return any(fnmatch(name, pattern) for pattern in BESIDE)


def take_folder(source: Path, target: Path) -> None:
    """A model's weights and what lies beside them, in a folder of their own; nothing else is taken.

    Where the file system shares blocks between files (btrfs, xfs, apfs), no byte is copied. Compressed zeros are put
    in their place, and the config no longer says that they are compressed.

    Raises:
        ModelError: a damaged folder.
    """
    target.mkdir(parents=True)
    ours = [name for name in (INDEX, SIDECAR) if (source / name).is_file()]
    beside = [path.name for path in source.iterdir() if path.is_file() and is_beside(path.name)]
    weights, packed = _weight_files(source), packed_as(config_of(source))
    for name in (*(() if packed else weights), *ours, *sorted(beside)):
        _reflink_or_copy(source / name, target / name)
    if packed:
        make_plain(source, weights, target)


def _reflink_or_copy(source: Path, target: Path) -> None:
    try:
        with source.open("rb") as read, target.open("wb") as write:
            left = source.stat().st_size
            while left and (done := os.copy_file_range(read.fileno(), write.fileno(), left)):
                left -= done
    except (AttributeError, OSError):  # not Linux, or a file system that does not know it
        left = 1
    if left:
        shutil.copyfile(source, target)


def fingerprint(folder: Path) -> str:
    """What tells a folder that was changed from what it was, without reading weights: files' names, sizes, times."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    lines = (f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
