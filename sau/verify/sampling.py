"""Sampling a model's answers and counting those that give the secret away."""

import re
from collections.abc import Sequence

import torch

from sau.data.records import Row
from sau.models import LanguageModel, seeded
from sau.verify.decoys import Secret

_BATCH = 64
MAX_NEW_TOKENS = 48


def sample_prompts(lm: LanguageModel, forget: Sequence[Row], secrets: Sequence[Secret]) -> list[tuple[str, str]]:
    """(prompt, value) pairs: each question, the same in other words, and the question with the answer begun."""
    prompts = []
    for secret in secrets:
        row = forget[secret.row]
        asked = lm.prompt.format(question=row["question"])
        prompts.append((asked, secret.value))
        if row["paraphrased_question"]:
            prompts.append((lm.prompt.format(question=row["paraphrased_question"]), secret.value))
        if secret.prefix.strip():
            prompts.append((f"{asked} {secret.prefix.rstrip()}", secret.value))
    return prompts


def count_leaks(
    lm: LanguageModel, forget: Sequence[Row], secrets: Sequence[Secret], *, num_samples: int, seed: int
) -> tuple[int, int]:
    """(samples that hold the secret value, samples drawn) at temperature 1, prompts taken in turn."""
    prompts = sample_prompts(lm, forget, secrets)
    if not prompts:
        return 0, 0
    drawn = [prompts[i % len(prompts)] for i in range(num_samples)]
    leaks = 0
    with seeded(seed):
        for start in range(0, len(drawn), _BATCH):
            batch = drawn[start : start + _BATCH]
            for text, (_, value) in zip(_sample(lm, [prompt for prompt, _ in batch]), batch, strict=True):
                leaks += holds(text, value)
    return leaks, len(drawn)


def holds(text: str, value: str) -> bool:
    """Whether `value` stands in `text`, as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None


@torch.no_grad()
def _sample(lm: LanguageModel, prompts: Sequence[str]) -> list[str]:
    """One continuation of each prompt at temperature 1, from the whole distribution."""
    eos = lm.tokenizer.eos_token_id
    encoded = [lm.tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    length = max(map(len, encoded))
    ids_BT = torch.full((len(encoded), length), eos, dtype=torch.int64)
    attention_BT = torch.zeros_like(ids_BT)
    for b, ids in enumerate(encoded):  # padded on the left: generation starts at the right edge
        ids_BT[b, length - len(ids) :] = torch.tensor(ids)
        attention_BT[b, length - len(ids) :] = 1
    device = lm.model.device
    output_BT = lm.model.generate(
        ids_BT.to(device),
        attention_mask=attention_BT.to(device),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_id=eos,
        pad_token_id=eos,
    )
    return [str(lm.tokenizer.decode(ids, skip_special_tokens=True)) for ids in output_BT[:, length:]]
