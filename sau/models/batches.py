"""From records to token batches.

Shape suffixes: B sequences, T tokens. Which tokens count is decided by position (where the answer starts and the
sequence ends), never by comparing token ids, so a pad token that equals eos cannot hide the real eos from a loss.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sau.data.records import Row
from sau.errors import DataError
from sau.models.prompts import answered, asked, tokenize

MAX_TOKENS = 2048

_WORTH_A_PASS = 64
"""Tokens: a further forward and backward pass costs about as much as they do (it adds to every gradient again)."""


@dataclass(frozen=True)
class Encoded:
    """One sequence: prompt tokens, then answer tokens (eos included)."""

    input_ids: tuple[int, ...]
    prompt_length: int

    @property
    def num_answer_tokens(self) -> int:
        return len(self.input_ids) - self.prompt_length


@dataclass(frozen=True)
class Batch:
    """Right-padded sequences.

    Attributes:
        input_ids_BT, attention_mask_BT: int64.
        answer_mask_BT: bool [B, T-1]; True at t where token t+1 is an answer token.
    """

    input_ids_BT: Tensor
    attention_mask_BT: Tensor
    answer_mask_BT: Tensor

    def parts(self) -> list["Batch"]:
        """The same sequences, cut where they stand into batches padded each to its own longest.

        A cut is made where it saves `_WORTH_A_PASS` tokens of padding, most in batches in order of length.
        """
        lengths = self.attention_mask_BT.sum(1).tolist()
        return [self._part(first, last, max(lengths[first:last])) for first, last in _cuts(lengths, 0, len(lengths))]

    def _part(self, first: int, last: int, length: int) -> "Batch":
        ids_BT, attention_BT, answer_BT = self.input_ids_BT, self.attention_mask_BT, self.answer_mask_BT
        return Batch(
            ids_BT[first:last, :length], attention_BT[first:last, :length], answer_BT[first:last, : length - 1]
        )

    def run(self, model: Any) -> Any:
        """The model's output for all tokens but each row's last."""
        return model(
            input_ids=self.input_ids_BT[:, :-1], attention_mask=self.attention_mask_BT[:, :-1], use_cache=False
        )

    def to(self, device: torch.device | str) -> "Batch":
        return Batch(self.input_ids_BT.to(device), self.attention_mask_BT.to(device), self.answer_mask_BT.to(device))


def encode(
    tokenizer,
    prompt: str,
    rows: Iterable[Row],
    *,
    question: str = "question",
    answer: str | Callable[[Row], str] = "answer",
    closed: bool = True,
) -> list[Encoded]:
    """Rows as the tokenizer's own start, the prompt with the question, the answer and what closes it (eos, or what the
    prompt says), see `sau.models.prompts`.

    Prompt and answer are tokenised as the one text they are. The answer begins with the first token that the prompt
    alone does not have, so a token that lies in both counts as the answer's.

    Args:
        closed: the end is there; without it the last token is the answer's own.

    Raises:
        DataError: a row longer than MAX_TOKENS, named by its record id.
    """
    rows = list(rows)
    if not rows:
        return []
    answers = [row[answer] if isinstance(answer, str) else answer(row) for row in rows]
    prompts = tokenize(tokenizer, [asked(tokenizer, prompt, row, question) for row in rows])
    whole = [
        answered(tokenizer, prompt, row, text, question, closed=closed) for row, text in zip(rows, answers, strict=True)
    ]
    texts = tokenize(tokenizer, [text for text, _ in whole])
    encoded = []
    for row, prompt_ids, text_ids, (_, ends) in zip(rows, prompts, texts, whole, strict=True):
        ids = (*text_ids, tokenizer.eos_token_id) if ends else tuple(text_ids)
        if len(ids) > MAX_TOKENS:
            raise DataError(f"record {row['record_id']}: {len(ids)} tokens, at most {MAX_TOKENS}")
        encoded.append(Encoded(ids, max(_num_common(prompt_ids, text_ids), 1)))  # the first token follows nothing
    return encoded


def _num_common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with together."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def collate(sequences: Sequence[Encoded], pad_id: int = 0) -> Batch:
    """Right-pad to the longest. Padding is invisible: attention and answer masks exclude it."""
    if not sequences:
        raise DataError("a batch needs at least one sequence")
    length = max(len(s.input_ids) for s in sequences)
    ids = torch.full((len(sequences), length), pad_id, dtype=torch.int64)
    attention = torch.zeros_like(ids)
    answer = torch.zeros((len(sequences), length - 1), dtype=torch.bool)
    for b, s in enumerate(sequences):
        end = len(s.input_ids)
        ids[b, :end] = torch.tensor(s.input_ids)
        attention[b, :end] = 1
        answer[b, s.prompt_length - 1 : end - 1] = True
    return Batch(ids, attention, answer)


def _cuts(lengths: Sequence[int], first: int, last: int) -> list[tuple[int, int]]:
    """[first, last) as ranges: halved where that saves most padding, and each half again, while it is worth it."""

    def cells(start: int, end: int) -> int:
        return (end - start) * max(lengths[start:end])

    if last - first < 2:
        return [(first, last)]
    cost, cut = min((cells(first, k) + cells(k, last), k) for k in range(first + 1, last))
    if cells(first, last) - cost < _WORTH_A_PASS:
        return [(first, last)]
    return _cuts(lengths, first, cut) + _cuts(lengths, cut, last)


def by_length(sequences: Sequence[Encoded], batch_size: int) -> list[list[int]]:
    """Indices in batches of similar length, for evaluation without padding waste."""
    order = sorted(range(len(sequences)), key=lambda i: (len(sequences[i].input_ids), i))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
