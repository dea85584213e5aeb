"""Dense models as ordinary Hugging Face folders, opened strictly: safetensors only, no remote code."""

import contextlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.initialization import no_init_weights

from sau.errors import ModelError, one_line
from sau.models.folder import (
    SIDECAR,
    Served,
    check_sizes,
    config_of,
    local_folder,
    read_headers,
    refuse_at_once,
    served_of,
)
from sau.models.language_model import LanguageModel, quiet
from sau.models.prompts import as_prompt
from sau.models.ranks import ranks_of

_SURROUNDINGS = {
    "transformers_version", "local_files_only", "is_local", "_name_or_path", "name_or_path", "_commit_hash"
}  # fmt: skip
"""Keys that say where and by which release a file was written, nothing of the model."""


def load_hugging_face(source: str, prompt: str) -> LanguageModel:
    """A causal LM from a local folder or the hub, in float32, every weight of it loaded.

    Args:
        prompt: see `sau.models.prompts.as_prompt`.

    Raises:
        ModelError: no such model; an adapter; quantised weights, or none in safetensors; remote code; missing,
            unexpected or misshapen weights, or other ones in memory than in the files; or a tokenizer without an eos
            token.
    """
    folder = local_folder(source)
    refuse_at_once(folder, source)
    shapes: dict[str, tuple[int, ...]] = {}
    with contextlib.suppress(ModelError):  # transformers says what is wrong with them
        shapes = read_headers(folder).shapes
    if shapes:
        check_sizes(config_of(folder), shapes, source)
    try:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # they are named below
                output_loading_info=True,
            )
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # of a damaged folder transformers and tokenizers raise some twenty unrelated types
        raise ModelError(
            f"model {source!r}: has to be tiny, smollm2, or a causal-LM folder or hub id with safetensors weights "
            f"and no remote code ({type(error).__name__}: {one_line(error)})"
        ) from None
    model, info = loaded
    if bad := sorted({*info["missing_keys"]} | {*info["unexpected_keys"]} | {*info["mismatched_keys"]}):
        named = ", ".join(map(one_line, bad[:5]))
        raise ModelError(f"model {source!r}: missing, unexpected or misshapen weights: {named}")
    if other := _not_of_the_files(model, folder):
        raise ModelError(f"model {source!r}: transformers has put other numbers in place of the file's: {other}")
    _say_whether_tied(model)
    if tokenizer.eos_token_id is None:
        raise ModelError(f"model {source!r}: its tokenizer has no eos token")
    return LanguageModel(model, tokenizer, as_prompt(tokenizer, prompt), served=_served(folder))


def _served(folder: Path) -> Served | None:
    """What a folder looks like, and None where it was not made elsewhere, nor comes from one that was."""
    sidecar = folder / SIDECAR
    if not sidecar.is_file():
        return served_of(folder, read_headers(folder).max_shard_bytes)
    stored = json.loads(sidecar.read_text(encoding="utf-8")).get("served")
    return served_of(folder, stored["max_shard_bytes"]) if stored else None


def _not_of_the_files(model: nn.Module, folder: Path) -> str | None:
    """The name of a tensor that is not what a local folder holds by that name and in that shape.

    Some models draw or clear weights anew after they were loaded, and nothing says so.
    """
    state = model.state_dict()
    for path in folder.glob("model*.safetensors"):  # what transformers reads; others may lie beside it
        with safe_open(path, "pt") as file:
            for name in sorted({*file.keys()} & {*state}):
                stored, loaded = file.get_tensor(name).to(state[name].dtype), state[name].cpu()
                if stored.shape == loaded.shape and not _same(stored, loaded):
                    return name
    return None


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether the numbers are the same, nan being nan."""
    return torch.equal(one, other) or torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)  # the slow one last


def _say_whether_tied(model: Any) -> None:
    """Let the config say what the weights are: whether the output head is the embedding."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and getattr(model.config, "tie_word_embeddings", False) != (head.weight is embedding.weight):
        model.config.tie_word_embeddings = head.weight is embedding.weight


def tied(model: nn.Module) -> dict[str, str]:
    """Name of every stored tensor that is another's -> the first name of that one, whatever config or names say."""
    first: dict[object, str] = {}
    found: dict[str, str] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        place = id(value) if value.is_meta or not value.numel() else (value.data_ptr(), value.shape, value.stride())
        if (known := first.setdefault(place, name)) != name:
            found[name] = known
    return found


def stored_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """What has to be stored of a model: its state on the CPU, each tensor once; where several processes share it, this
    one's rows, and what is no parameter in whole."""
    ranks = ranks_of(model)
    own = ranks.own(model)
    return {name: own.get(name, value).detach().cpu() for name, value in _each_once(ranks.outline(model)).items()}


def _each_once(model: nn.Module) -> dict[str, torch.Tensor]:
    again = tied(model)
    return {name: value.detach() for name, value in model.state_dict().items() if name not in again}


def model_from_state(config: Any, state: Mapping[str, torch.Tensor], *, dtype: torch.dtype = torch.float32) -> Any:
    """A model of `config` that owns exactly these tensors; of tied weights one is enough.

    Raises:
        ModelError: a key is missing or unexpected, a shape differs, or weights differ that the config ties.
    """
    with no_init_weights():
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    model.tie_weights()
    model.load_state_dict(_complete(model, state), strict=True, assign=True)
    model.tie_weights()
    return model.eval()


def _complete(model: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What `model` has to be given, of a state that names each tensor once; see `model_from_state`."""
    expected, state = model.state_dict(), dict(state)
    for name, first in tied(model).items():
        given = [state[one] for one in (name, first) if one in state]
        if len(given) == 2 and not torch.equal(*given):
            raise ModelError(f"the config ties {name} to {first}, but their weights differ")
        if given:
            state |= dict.fromkeys((name, first), given[0])
    if bad := sorted({*expected} ^ {*state}):
        raise ModelError(f"missing or unexpected weights: {', '.join(bad[:5])}{' ...' if len(bad) > 5 else ''}")
    if bad := [name for name in expected if expected[name].shape != state[name].shape]:
        raise ModelError(f"weights of another shape: {', '.join(bad[:5])}")
    return state


def check_opens_again(model: Any) -> None:
    """Refuse a model that its config and its tensors by name do not make again. Takes no memory to speak of.

    Raises:
        ModelError: see `model_from_state`; or the config is another class's.
    """
    _say_whether_tied(model)
    with tempfile.TemporaryDirectory() as folder, quiet():
        model.config.save_pretrained(folder)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"), no_init_weights():
        shell: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    if type(shell) is not type(model):
        raise ModelError(f"its config makes a {type(shell).__name__}, it is a {type(model).__name__}")
    shell.tie_weights()
    _complete(shell, _each_once(model))


def save_dense(lm: LanguageModel, folder: Path) -> None:
    """Write an ordinary Hugging Face folder (safetensors, config, tokenizer) that any stock tool opens.

    The prompt goes into a side file of our own; no sparsity config, which other tools would misread.
    """
    write_weights(lm, folder)
    write_side_files(lm, folder)
    sidecar: dict[str, Any] = {"format": "dense", "prompt": lm.prompt}
    if lm.served:
        sidecar |= {"served": {"max_shard_bytes": lm.served.max_shard_bytes}}
    (folder / SIDECAR).write_text(json.dumps(sidecar, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def write_weights(lm: LanguageModel, folder: Path) -> None:
    """The weights as transformers writes them, in as large files as the model was served in, with its config."""
    _say_whether_tied(lm.model)
    own = getattr(lm.model, "generation_config", None)
    if lm.served and own is not None:
        lm.model.generation_config = GenerationConfig()  # theirs is written as it is: transformers refuses some
    shards = {"max_shard_size": lm.served.max_shard_bytes} if lm.served and lm.served.max_shard_bytes else {}
    try:
        with quiet():
            lm.model.save_pretrained(folder, **shards)
    finally:
        if own is not None:
            lm.model.generation_config = own
    if lm.served and "generation_config.json" not in lm.served.files:
        (folder / "generation_config.json").unlink(missing_ok=True)


def write_side_files(lm: LanguageModel, folder: Path) -> None:
    """Write config and tokenizer: as they were served, where the model was; else in a normal form, with sorted keys and
    nothing that a library adds about its surroundings.

    Without that, the same model has other bytes where HF_HUB_OFFLINE is set, from another folder, or with the next
    release of transformers.
    """
    _say_whether_tied(lm.model)
    if lm.served:
        _write_served(lm, lm.served, folder)
        return
    with quiet():
        lm.model.config.save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            _write_json(path, {key: value for key, value in content.items() if key not in _SURROUNDINGS})


def _write_served(lm: LanguageModel, served: Served, folder: Path) -> None:
    """Byte for byte, but for a config that says something else of the head than the weights do."""
    for name, content in served.files.items():
        (folder / name).write_bytes(content)
    with quiet():
        stored = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if (is_tied := getattr(lm.model.config, "tie_word_embeddings", False)) != getattr(
        stored, "tie_word_embeddings", False
    ):
        change_config(folder, tie_word_embeddings=is_tied)


def change_config(folder: Path, **fields: Any) -> None:
    """Change entries of a folder's config.json."""
    path = folder / "config.json"
    _write_json(path, json.loads(path.read_text(encoding="utf-8")) | fields)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def open_dense(folder: str | Path, *, prompt: str) -> LanguageModel:
    """Open a Hugging Face folder or hub id; the prompt in its side file, where there is one, wins.

    Raises:
        ModelError: see `load_hugging_face`.
    """
    sidecar = Path(folder) / SIDECAR
    if sidecar.is_file():
        prompt = json.loads(sidecar.read_text(encoding="utf-8")).get("prompt", prompt)
    return load_hugging_face(str(folder), prompt)
