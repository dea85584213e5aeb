"""What cutting attention at the sequences' bounds ourselves saves over transformers' own mask for packed sequences.

    python -m benchmarks.packed_mask [--rounds 7]

A training batch in one row, positions starting anew at each sequence. `own` is `forward_packed`, which gives each of
them an attention of its own; `masked` is the model as it is: transformers draws a mask from the positions alone;
`padded` is `Batch.parts`. Random weights, one thread, float32, batches as training has them; each round is one batch,
on which the ways take turns. CPU time of the forward and backward pass, loss at the answer tokens. Ratios are medians
of rounds (lowest to highest); `step` has AdamW's update on both sides, 50% of every linear pruned, embeddings frozen.
`off` and `unnoticed` are about `masked`: how far logits are from those of each sequence alone, over the largest logit,
and whether they stay the same to the bit when the row's first sequence is another.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.step_time import LR, half_mask, smollm2_shape
from sau.data.demo import demo_rows
from sau.mask import apply_mask
from sau.models.batches import Batch, Encoded, collate
from sau.models.language_model import LanguageModel
from sau.models.packing import forward_packed
from sau.models.scoring import Pass, logits_in, targets_of, token_logps
from sau.models.sources import ModelParams, base_model
from sau.training.optimizer import SurvivorAdamW
from sau.training.session import batches, training

SMALL = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
SMALL |= {"bos_token_id": 1, "eos_token_id": 2}


def forward_masked(model: Any, input_ids_T: Tensor, lengths: Sequence[int]) -> Any:
    """`forward_packed` by transformers' own means."""
    positions_T = torch.cat([torch.arange(length) for length in lengths])
    return model(input_ids=input_ids_T[None], position_ids=positions_T[None], use_cache=False)


def in_a_row(forward: Callable[..., Any], batch: Batch) -> list[Pass]:
    real_BT = batch.attention_mask_BT[:, 1:].bool()
    run = partial(forward, input_ids_T=batch.input_ids_BT[:, :-1][real_BT], lengths=real_BT.sum(1).tolist())
    return [Pass(run, batch.answer_mask_BT[real_BT][None])]


WAYS: dict[str, Callable[[Batch], list[Pass]]] = {
    "own": partial(in_a_row, forward_packed),
    "masked": partial(in_a_row, forward_masked),
    "padded": lambda batch: [Pass(part.run, part.answer_mask_BT) for part in batch.parts()],
}


def small(family: str, **options: Any) -> Any:
    """Random weights, large enough that logits differ."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, vocab_size=1024, **SMALL, **options))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.float().eval()


def random_rows(vocabulary: int, shortest: int, longest: int) -> list[Encoded]:
    lengths = torch.randint(shortest, longest + 1, (64,)).tolist()
    return [Encoded(tuple(torch.randint(3, vocabulary, (n,)).tolist()), n // 3) for n in lengths]


@torch.no_grad()
def agreement(model: Any, sequences: Sequence[Encoded]) -> tuple[float, bool]:
    """`off` and `unnoticed`."""
    first_T, *rest = [torch.tensor(s.input_ids) for s in sequences]
    alone = torch.cat([model(input_ids=ids_T[None], use_cache=False).logits[0] for ids_T in (first_T, *rest)])
    lengths = [len(s.input_ids) for s in sequences]
    row, changed = (forward_masked(model, torch.cat([t, *rest]), lengths).logits[0] for t in (first_T, first_T.flip(0)))
    unnoticed = torch.equal(row[len(first_T) :], changed[len(first_T) :])
    return float((row - alone).abs().max() / alone.abs().max()), unnoticed and not torch.equal(row, changed)


def seconds(run: Callable[[], Any]) -> float:
    before = time.process_time()
    run()
    return time.process_time() - before


def measure(model: Any, rows: Sequence[Encoded], size: int, rounds: int) -> list[dict[str, float]]:
    """CPU seconds of each way's passes and of the update, by round."""
    mask = half_mask(model)
    apply_mask(model, mask)
    order, names, found = batches(rows, size, seed=0), list(WAYS), []
    with training(LanguageModel(model, None, "{question}", mask), freeze_embeddings=True) as parameters:
        optimizer = SurvivorAdamW(parameters, mask)
        for number in range(rounds + 1):
            batch, taken = collate([rows[i] for i in next(order)]), {}
            for name in names[number % 3 :] + names[: number % 3]:
                optimizer.zero_grad()
                taken[name] = seconds(partial(forward_backward, model, WAYS[name], batch))
            found.append(taken | {"update": seconds(partial(optimizer.step, lr=LR))})
    return found[1:]


def forward_backward(model: Any, way: Callable[[Batch], list[Pass]], batch: Batch) -> None:
    token_logps(logits_in(model, way(batch)), targets_of(batch)).mean().neg().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description="our packed attention over transformers' mask for packed sequences")
    parser.add_argument(
        "--rounds", type=int, default=7, help="after one not counted; the small models run 20 times these"
    )
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tiny = base_model(ModelParams(), seed=0)
    demo = tiny.encode([row for n in range(4) for row in demo_rows(f"mask-{n}", seed=0)])
    cases = [
        ("tiny", tiny.model, demo, 20 * rounds),
        ("SmolLM2-135M's shape", smollm2_shape(), random_rows(49152, 25, 70), rounds),
        ("Qwen2", small("qwen2", num_key_value_heads=2), random_rows(1024, 20, 45), 20 * rounds),
        ("GPT-2", small("gpt2"), random_rows(1024, 20, 45), 20 * rounds),
    ]
    print("| model | rows | own, ms | masked, ms | padded, ms | own / masked | step, own / masked | off | unnoticed |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, model, rows, its_rounds in cases:
        off, unnoticed = agreement(model, rows[:8])
        for size in (8, 16):
            found = measure(model, rows, size, its_rounds)
            times = " | ".join(f"{1000 * median(r[way] for r in found):.4g}" for way in WAYS)
            ratios = [r["own"] / r["masked"] for r in found]
            step = median((r["own"] + r["update"]) / (r["masked"] + r["update"]) for r in found)
            spread = f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
            answer = "yes" if unnoticed else "no"
            print(f"| {name} | {size} | {times} | {spread} | {step:.3f} | {off:.1e} | {answer} |", flush=True)


if __name__ == "__main__":
    main()
