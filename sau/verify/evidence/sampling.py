"""Sampling a model's answers and counting those that give the secret away."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from sau.data.records import Row
from sau.models.autocast import computing
from sau.models.language_model import LanguageModel, seeded
from sau.models.prompts import answered, asked, tokenize
from sau.models.ranks import ranks_of
from sau.verify.evidence.decoys import Secret

_BATCH_TOKENS = 16_384
"""Of prompts and answers that are drawn at once: what the model keeps of each is some 50 to 150 KB."""

MAX_NEW_TOKENS = 48


class Probe(NamedTuple):
    """What to ask, the part of the answer that is given away with it, and the value that must not be completed."""

    prompt: str
    given: str
    value: str


def probes(
    lm: LanguageModel, forget: Sequence[Row], secrets: Sequence[Secret], shots: Sequence[Row] = ()
) -> list[Probe]:
    """Per secret: the question; the question in other words; after `shots` answered questions; with the answer begun
    up to the value; with the first half of the value's tokens as well."""

    def put(row: Row, question: str = "question") -> str:
        return asked(lm.tokenizer, lm.prompt, row, question)

    def begun_with(row: Row, words: str) -> str:
        return answered(lm.tokenizer, lm.prompt, row, words, closed=False)[0]

    shown = "".join(answered(lm.tokenizer, lm.prompt, row, row["answer"])[0] + "\n\n" for row in shots)
    found = []
    for secret in secrets:
        row = forget[secret.row]
        found.append(Probe(put(row), "", secret.value))
        if row["paraphrased_question"]:
            found.append(Probe(put(row, "paraphrased_question"), "", secret.value))
        if shown:
            found.append(Probe(shown + put(row), "", secret.value))
        if secret.prefix.strip():
            found.append(Probe(begun_with(row, secret.prefix.rstrip()), "", secret.value))
        if begun := _first_half(lm, secret.value):
            found.append(Probe(begun_with(row, f"{secret.prefix}{begun}"), begun, secret.value))
    return found


def _first_half(lm: LanguageModel, value: str) -> str:
    """The text of the first half of the value's tokens; empty where it has one token only."""
    ids = lm.tokenizer(f" {value}", add_special_tokens=False)["input_ids"]
    return str(lm.tokenizer.decode(ids[: len(ids) // 2])).strip()


def count_leaks(
    lm: LanguageModel,
    forget: Sequence[Row],
    secrets: Sequence[Secret],
    *,
    num_samples: int,
    seed: int,
    shots: Sequence[Row] = (),
) -> tuple[int, int]:
    """(samples that hold the secret value, samples drawn) at temperature 1, probes taken in turn. Each batch has a seed
    of its own, so that it makes no difference which process draws it."""
    asked = probes(lm, forget, secrets, shots)
    if not asked:
        return 0, 0
    drawn = [asked[i % len(asked)] for i in range(num_samples)]
    batches = list(_batches(lm, drawn))

    def leaks(number: int) -> int:
        batch = batches[number]
        with seeded(seed + number):
            texts = _sample(lm, [probe.prompt for probe in batch])
        # Some tokenizers drop the space that a continuation begins with.
        gaps = ("", " ")
        return sum(
            any(holds(f"{probe.given}{gap}{text}", probe.value) for gap in gaps)
            for text, probe in zip(texts, batch, strict=True)
        )

    return sum(ranks_of(lm.model).each(range(len(batches)), leaks)), len(drawn)


def _batches(lm: LanguageModel, drawn: Sequence[Probe]) -> Iterator[list[Probe]]:
    """In order of length, or one long prompt would have all of them padded to it, and as many as there is room for."""
    lengths = [len(ids) + MAX_NEW_TOKENS for ids in tokenize(lm.tokenizer, [probe.prompt for probe in drawn])]
    order = sorted(range(len(drawn)), key=lengths.__getitem__, reverse=True)
    while order:
        room = max(_BATCH_TOKENS // lengths[order[0]], 1)
        yield [drawn[i] for i in order[:room]]
        del order[:room]


def holds(text: str, value: str) -> bool:
    """Whether `value` stands in `text`, as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None


@torch.no_grad()
def _sample(lm: LanguageModel, prompts: Sequence[str]) -> list[str]:
    """One continuation of each prompt at temperature 1, from the whole distribution."""
    eos = lm.tokenizer.eos_token_id
    encoded = [ids or [eos] for ids in tokenize(lm.tokenizer, prompts)]
    length = max(map(len, encoded))
    ids_BT = torch.full((len(encoded), length), eos, dtype=torch.int64)
    attention_BT = torch.zeros_like(ids_BT)
    for b, ids in enumerate(encoded):  # padded on the left: generation starts at the right edge
        ids_BT[b, length - len(ids) :] = torch.tensor(ids)
        attention_BT[b, length - len(ids) :] = 1
    device = lm.model.device
    with computing(lm.model):
        output_BT = lm.model.generate(
            ids_BT.to(device),
            attention_mask=attention_BT.to(device),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=MAX_NEW_TOKENS,
            eos_token_id=lm.ends,
            pad_token_id=eos,
        )
    return [str(lm.tokenizer.decode(ids, skip_special_tokens=True)) for ids in output_BT[:, length:]]
