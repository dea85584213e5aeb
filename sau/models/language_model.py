"""A language model with what is needed to use it: tokenizer, prompt, mask."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import logging as transformers_logging

from sau.data.records import Row
from sau.mask import Mask
from sau.models.autocast import computing
from sau.models.batches import Encoded, encode
from sau.models.folder import Served
from sau.models.prompts import PLAIN, asked, tokenize

PROMPT = PLAIN
"""How a question is put to a model that is made here."""


@dataclass
class LanguageModel:
    """A causal LM, its tokenizer, the prompt it was tuned with, its mask (None where dense), what the folder that it
    came from looked like (None where it was made here), and how training saves memory (`sau.models.placement`)."""

    model: Any
    tokenizer: Any
    prompt: str
    mask: Mask | None = None
    served: Served | None = None
    micro_batch: int | None = None
    gradient_checkpointing: bool = False

    def encode(
        self,
        rows: Iterable[Row],
        *,
        question: str = "question",
        answer: str | Callable[[Row], str] = "answer",
        closed: bool = True,
    ) -> list[Encoded]:
        """Rows as token sequences (see `sau.models.batches.encode`)."""
        return encode(self.tokenizer, self.prompt, rows, question=question, answer=answer, closed=closed)

    @property
    def ends(self) -> list[int]:
        """Tokens that end an answer: eos, and what the prompt closes it with."""
        end = self.prompt.partition("{answer}")[2].format()
        closing = self.tokenizer(end, add_special_tokens=False)["input_ids"][:1] if end else []
        return list(dict.fromkeys([self.tokenizer.eos_token_id, *closing]))

    @torch.no_grad()
    def answer(self, question: str | Row, *, max_new_tokens: int = 48) -> str:
        """The model's greedy answer to one question, or to a row's after what it has before it."""
        row = {"question": question} if isinstance(question, str) else question
        start = tokenize(self.tokenizer, [asked(self.tokenizer, self.prompt, row)])[0]
        ids = torch.tensor([start or [self.tokenizer.eos_token_id]], device=self.model.device)
        with computing(self.model):
            output = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=max_new_tokens,
                eos_token_id=self.ends,
                pad_token_id=self.tokenizer.eos_token_id,
            )
        return self.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip()


@contextlib.contextmanager
def seeded(seed: int, num_threads: int | None = None) -> Iterator[None]:
    """Run with torch's generator at `seed` and a fixed thread count (float sums depend on it), then restore both."""
    threads = torch.get_num_threads()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        if num_threads:
            torch.set_num_threads(num_threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


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
