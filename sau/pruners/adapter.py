"""An adapter merged into the model that it was trained on, by peft, and what becomes of that model's zeros.

Merging a low-rank update W + B A writes into every place of a matrix: where W was pruned, its zeros are gone, and with
them the sparsity. Masked again, it is sparse, and another model than the one that was tuned. So neither goes unasked.
"""

import contextlib
import json
import re
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from sau.errors import ModelError, one_line
from sau.files import read_bounded
from sau.mask import Mask
from sau.models.compressed import packed_as
from sau.models.dense import load_hugging_face, write_side_files, write_weights
from sau.models.folder import ADAPTER, config_of, is_beside, local_folder, read_headers
from sau.models.language_model import LanguageModel, quiet
from sau.models.prompts import PLAIN
from sau.pruners.found import find_mask

MERGED = "merged.json"
"""What merging came to, beside a merged model's weights."""

_WEIGHTS = "adapter_model.safetensors"
_MOST_BYTES = 4 << 20
_MOST_OF_A_PATH = 4096


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder.

    Attributes:
        folder: its own.
        base: what it says that it was trained on, a folder or hub id; "" where it says nothing.
        kind: peft's name of the method, such as LORA.
    """

    folder: Path
    base: str
    kind: str


def open_adapter(source: str) -> Adapter:
    """An adapter's folder or hub id, looked at; no weight is read.

    Raises:
        ModelError: it is no adapter, not one that can be merged, its weights are pickles, or peft is not installed.
    """
    folder = local_folder(source, check=_config_of)
    config = _config_of(folder, source)
    kind = str(config.get("peft_type"))
    tuners = _peft().mapping.PEFT_TYPE_TO_TUNER_MAPPING
    if not hasattr(tuners.get(kind), "merge_and_unload"):
        raise ModelError(f"adapter {source!r}: of the kind {one_line(kind)}, which peft does not merge into weights")
    if not (folder / _WEIGHTS).is_file():
        raise ModelError(f"adapter {source!r}: no {_WEIGHTS}; weights in any other form are not opened")
    if why := _harm(config, _largest(folder)):
        raise ModelError(f"adapter {source!r}: {ADAPTER}: {why}")
    return Adapter(folder, str(config.get("base_model_name_or_path") or "")[:_MOST_OF_A_PATH], kind)


def _largest(folder: Path) -> int:
    """The largest dimension of an adapter's tensors; their headers are read, no weight is.

    Raises:
        ModelError: the file is damaged.
    """
    try:
        with safe_open(folder / _WEIGHTS, "pt") as file:
            return max((size for name in file.keys() for size in file.get_slice(name).get_shape()), default=0)  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{folder}/{_WEIGHTS}: not readable ({type(error).__name__})") from None


def _harm(config: dict[str, Any], largest: int) -> str | None:
    """What peft would do for a config that it should not do for a stranger's; None where there is nothing of it.

    It makes matrices of any rank before it looks at the weights, as many layers as it is told to, imports a module by
    name, and matches modules' names by regular expressions, of which some take for ever.
    """
    for name, value in config.items():
        if name in ("layer_replication", "megatron_config") and value:
            return f"{name} is not taken: merge it where it was made"
        numbers = value.values() if isinstance(value, dict) else [value]
        if _RANK.search(name) and any(isinstance(n, int | float) and not -1 <= n <= largest for n in numbers):
            return f"{name} says more than {largest}, the largest dimension of its weights"
        patterns = [*value] if isinstance(value, dict) and name.endswith("_pattern") else [value]
        if _MODULES.search(name) and any(isinstance(p, str) and _is_slow(p) for p in patterns):
            return f"{name} is a pattern that may take for ever; name the modules in a list"
    return None


_RANK = re.compile(r"(^|_)(r|rank|rank_pattern|num_vectors|vector_length|n_frequency|block_size|block_num)$")
_MODULES = re.compile(r"(modules|_pattern|layers)$")
_REPEATED_GROUP = re.compile(r"\)\??[*+{]")
_REPEAT = re.compile(r"(?<!\\)[*+{]")
_MOST_REPEATS = 6


def _is_slow(pattern: str) -> bool:
    """Whether a regular expression may take far longer than the names it is for are long."""
    return bool(_REPEATED_GROUP.search(pattern)) or len(_REPEAT.findall(pattern)) > _MOST_REPEATS


def _config_of(folder: Path, name: str) -> dict[str, Any]:
    try:
        config = json.loads(read_bounded(folder / ADAPTER, _MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ModelError(f"adapter {name!r}: no {ADAPTER}, so it is none; leave out --merge-adapter")
    return config


def merge_adapter(adapter: Adapter, base: Path, target: Path, *, remask: bool | None) -> None:
    """Write the folder of `base` with the adapter in it: the numbers, files and shards of the base's, and the adapter's
    tokenizer where it has one. What became of zeros stands in `MERGED`, see `merged_in_words`.

    Args:
        remask: whether what was pruned in the base is zero again; None refuses where merging would fill any of it.

    Raises:
        ModelError: the adapter does not fit the base; or the base's zeros would be filled, and nobody has said whether
            they are to be.
    """
    lm, mask, tuned = _tuned(adapter, base)
    with _fitting(adapter, base):
        lm.model = tuned.merge_and_unload(safe_merge=True)
    told = _masked(lm.model, mask, remask)
    lm.model.to(getattr(torch, read_headers(base).dtype))
    target.mkdir(parents=True)
    write_weights(lm, target)
    write_side_files(lm, target)
    for path in sorted(adapter.folder.iterdir()):
        if path.is_file() and is_beside(path.name) and path.name != "config.json":
            shutil.copyfile(path, target / path.name)
    (target / MERGED).write_text(json.dumps({"kind": adapter.kind, **told}, indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def check_merge(adapter: Adapter, base: Path) -> None:
    """Refuse what `merge_adapter` refuses where nobody has said what becomes of zeros: base and adapter are loaded, and
    pruned matrices alone are merged, until one of them has a zero filled.

    A packed base is left to `merge_adapter`, which gets it unpacked.
    """
    if packed_as(config_of(base)) is not None:
        return
    lm, mask, _ = _tuned(adapter, base)
    for name, kept in mask.items():
        with _fitting(adapter, base):
            merged = _merge_one(lm.model, name)
        if count := _filled(merged, kept):
            raise _unasked(name, count, kept)


def _tuned(adapter: Adapter, base: Path) -> tuple[LanguageModel, Mask, Any]:
    """The base with the adapter's layers around its own, the mask that the base had, and the model as peft's."""
    lm = load_hugging_face(str(base), PLAIN)
    mask = find_mask(lm.model).mask or {}
    with _fitting(adapter, base):
        tuned = _peft().PeftModel.from_pretrained(lm.model, adapter.folder)
        _check_whole(tuned, adapter.folder)
    return lm, mask, tuned


@contextlib.contextmanager
def _fitting(adapter: Adapter, base: Path) -> Iterator[None]:
    """peft at work: what it warns of is looked at by us, and what it raises is that the two do not fit."""
    try:
        with quiet(), warnings.catch_warnings(action="ignore"):
            yield
    except Exception as error:  # peft and torch raise a dozen unrelated types
        raise ModelError(
            f"adapter {adapter.folder.name!r}: does not fit {base} ({type(error).__name__}: {one_line(error)})"
        ) from None


def _merge_one(model: Any, name: str) -> torch.Tensor:
    """A parameter of a model with an adapter's layers in it, merged as peft's own `merge_and_unload` does."""
    path, _, own = name.rpartition(".")
    module = model.get_submodule(path)
    if hasattr(module, "unload_and_optionally_merge_module"):
        module = module.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
    elif hasattr(module, "base_layer"):
        module.merge(safe_merge=True)
        module = module.get_base_layer()
    found: torch.Tensor = module.get_parameter(own)
    return found


def _filled(merged: torch.Tensor, kept: torch.Tensor) -> int:
    """How many of a parameter's pruned places are zero no more."""
    return int((merged != 0)[~kept].sum())


def _unasked(name: str, count: int, kept: torch.Tensor) -> ModelError:
    return ModelError(
        f"the base's zeros are a mask, and merging fills them, {count:,} of {int((~kept).sum()):,} in {name} alone: "
        "--remask makes them zero again, which is another model than the one that was tuned; --no-remask takes it as "
        "it is merged, sparse where the adapter left it so"
    )


def _check_whole(tuned: Any, folder: Path) -> None:
    """Whether every tensor of the adapter's file has found its place, and none is lacking; peft only warns."""
    get_state = _peft().get_peft_model_state_dict
    needed = {*get_state(tuned, save_embedding_layers=False)}
    known = needed | {*get_state(tuned, save_embedding_layers=True)}
    with safe_open(folder / _WEIGHTS, "pt") as file:
        given = {*file.keys()}
    if bad := sorted((needed - given) | (given - known)):
        raise ValueError(f"missing or unexpected: {', '.join(bad[:3])}")


@torch.no_grad()
def _masked(model: Any, mask: dict[str, torch.Tensor], remask: bool | None) -> dict[str, int | bool]:
    """Count the zeros that merging has filled, and make them zero again where that is asked for."""
    parameters = dict(model.named_parameters())
    filled = {name: _filled(parameters[name], kept) for name, kept in mask.items()}
    matrices = sum(count > 0 for count in filled.values())
    zeros = sum(int((~kept).sum()) for kept in mask.values())
    if matrices and remask is None:
        first = next(name for name, count in filled.items() if count)
        raise _unasked(first, filled[first], mask[first])
    if remask:
        for name, kept in mask.items():
            parameters[name].masked_fill_(~kept, 0.0)
    return {"zeros": zeros, "filled": sum(filled.values()), "matrices": matrices, "remasked": bool(remask and matrices)}


def merged_in_words(folder: Path) -> str:
    """What merging came to that made the model of a folder; "" where nothing was merged into it."""
    if not (folder / MERGED).is_file():
        return ""
    told = json.loads((folder / MERGED).read_text(encoding="utf-8"))
    words = f"an adapter ({told['kind']}) was merged into its base"
    if not told["zeros"]:
        return f"{words}, which had no mask"
    if not told["filled"]:
        return f"{words}, whose {told['zeros']:,} zeros it left"
    what = "set to zero again" if told["remasked"] else "lost as pruned"
    return (
        f"{words}: {told['filled']:,} of the base's {told['zeros']:,} zeros, in {told['matrices']} matrices, were "
        f"filled and {what}"
    )


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise ModelError(
            "an adapter is merged by peft, which is not installed: pip install 'sparsity-aware-unlearning[peft]'"
        ) from None
    return peft
