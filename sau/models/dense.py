"""Dense models as ordinary Hugging Face folders, opened strictly: safetensors only, no remote code."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.initialization import no_init_weights

from sau.errors import ModelError
from sau.models.language_model import SIDECAR, LanguageModel, quiet

_SURROUNDINGS = {
    "transformers_version", "local_files_only", "is_local", "_name_or_path", "name_or_path", "_commit_hash"
}  # fmt: skip
"""Keys that say where and by which release a file was written, nothing of the model."""


def load_hugging_face(source: str, prompt: str) -> LanguageModel:
    """A causal LM from a local folder or the hub, in float32, every weight of it loaded.

    Raises:
        ModelError: no such model, no safetensors, remote code, missing, unexpected or misshapen weights, or a tokenizer
            without an eos token.
    """
    try:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
            tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"model {source!r}: has to be tiny, smollm2, or a causal-LM folder or hub id with safetensors weights "
            f"and no remote code ({type(error).__name__})"
        ) from None
    model, info = loaded
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    if bad := sorted(({*info["missing_keys"]} - tied) | {*info["unexpected_keys"]} | {*info["mismatched_keys"]}):
        raise ModelError(f"model {source!r}: missing, unexpected or misshapen weights: {', '.join(map(str, bad[:5]))}")
    if tokenizer.eos_token_id is None:
        raise ModelError(f"model {source!r}: its tokenizer has no eos token")
    return LanguageModel(model, tokenizer, prompt)


def model_from_state(config: Any, state: dict[str, torch.Tensor], *, dtype: torch.dtype = torch.float32) -> Any:
    """A model of `config` that owns exactly these tensors; tied weights may be left out.

    Raises:
        ModelError: a key is missing or unexpected, or a shape differs.
    """
    with no_init_weights():
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    expected = model.state_dict()
    head = model.get_output_embeddings()
    if config.tie_word_embeddings and head is not None and "lm_head.weight" in expected:
        state = {**state, "lm_head.weight": state[f"{model.base_model_prefix}.embed_tokens.weight"]} if (
            "lm_head.weight" not in state and f"{model.base_model_prefix}.embed_tokens.weight" in state
        ) else state  # fmt: skip
    if bad := sorted({*expected} ^ {*state}):
        raise ModelError(f"missing or unexpected weights: {', '.join(bad[:5])}{' ...' if len(bad) > 5 else ''}")
    if bad := [name for name in expected if expected[name].shape != state[name].shape]:
        raise ModelError(f"weights of another shape: {', '.join(bad[:5])}")
    model.load_state_dict(state, strict=True, assign=True)
    model.tie_weights()
    return model.eval()


def save_dense(lm: LanguageModel, folder: Path) -> None:
    """Write an ordinary Hugging Face folder (safetensors, config, tokenizer) that any stock tool opens.

    The prompt goes into a side file of our own; no sparsity config, which other tools would misread.
    """
    with quiet():
        lm.model.save_pretrained(folder)
    write_side_files(lm, folder)
    sidecar = {"format": "dense", "prompt": lm.prompt}
    (folder / SIDECAR).write_text(json.dumps(sidecar, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def write_side_files(lm: LanguageModel, folder: Path) -> None:
    """Write config and tokenizer in a normal form: sorted keys, and nothing that a library adds about its surroundings.

    Without that, the same model has other bytes where HF_HUB_OFFLINE is set, from another folder, or with the next
    release of transformers.
    """
    with quiet():
        lm.model.config.save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            normal = {key: value for key, value in content.items() if key not in _SURROUNDINGS}
            text = json.dumps(normal, indent=2, sort_keys=True, ensure_ascii=False)
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
