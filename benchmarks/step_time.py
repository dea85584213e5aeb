"""What SAU costs on top of a plain step, in one run.

    python -m benchmarks.step_time [--steps 7] [--sides none importance natural compensated]

A model of SmolLM2-135M's shape with random weights, 50% of every block matrix pruned; NPO, batches of 8
random sequences of 60 tokens, embeddings frozen, one thread. The plain step is the same loop without a mask. Sides take
turns, so that what else runs on the machine hits all of them alike; each step's ratio is to the plain step of its
round, and the median over rounds is given. CPU seconds. `outside the model` is all of the step but the forward and
backward passes: gathering, clipping, AdamW, redistribution, writing back. The passes are the same work on all sides,
and what the machine adds to them can exceed all the rest: `ratio_same_model` takes their median over all sides.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sau.data.records import Row
from sau.mask import Mask, apply_mask
from sau.models.batches import Encoded
from sau.models.language_model import LanguageModel
from sau.models.layers import prunable
from sau.training.optimizer import SurvivorAdamW
from sau.training.session import training
from sau.unlearn.objectives.base import Setting
from sau.unlearn.unlearn import UnlearnParams, UnlearnStep

NUM_ROWS, NUM_TOKENS, PROMPT = 32, 60, 20
LR = 1e-5
SIDES = ("none", "importance")


def smollm2_shape() -> Any:
    """Random weights in SmolLM2-135M's shape: time does not depend on their values."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).float().eval()


def half_mask(model: Any) -> Mask:
    """The larger half of each matrix."""
    weights = {f"{name}.weight": linear.weight.detach().abs() for name, linear in prunable(model)}
    return {name: weight > weight.median() for name, weight in weights.items()}


def random_rows(seed: int, vocabulary: int) -> list[Encoded]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary, (NUM_ROWS, NUM_TOKENS), generator=generator).tolist()
    return [Encoded(tuple(row), PROMPT) for row in ids]


class Side:
    """One way to step. All share one model, since time does not depend on the values of weights."""

    def __init__(self, name: str, model: Any, mask: Mask) -> None:
        lm = LanguageModel(model, None, "{question}", mask or None)
        rows: list[Row] = []
        vocabulary = model.config.vocab_size
        setting = Setting(lm, rows, *(random_rows(seed, vocabulary) for seed in range(3)))
        self.optimizer = SurvivorAdamW(training(lm, freeze_embeddings=True).__enter__(), mask)
        self.step = UnlearnStep(
            setting,
            self.optimizer,
            UnlearnParams(
                objective="npo",
                redistribution="none" if name == "plain" else name,
                lr=LR,
                max_steps=1,
                batch_size=8,
                stop=None,
            ),
            0,
        )
        self.in_model = 0.0
        backward = self.step.backward

        def timed(*args: Any) -> float:
            before = time.process_time()
            value = backward(*args)
            self.in_model += time.process_time() - before
            return value

        self.step.backward = timed  # type: ignore[method-assign]

    def seconds(self) -> tuple[float, float]:
        """CPU seconds of one step, and of its part outside the model."""
        self.in_model = 0.0
        before = time.process_time()
        self.step(LR, 1.0)
        taken = time.process_time() - before
        self.optimizer.zero_grad()
        return taken, taken - self.in_model

    def state_bytes(self) -> tuple[int, int]:
        """(AdamW's moments, everything else that is held from step to step); the mask is the model's own."""
        moments = list(_tensors(self.optimizer.moments))
        models = {id(t) for layer in self.optimizer.layers for t in (layer.weight, layer.kept_OI)}
        held = _tensors([self.optimizer.layers, self.step.redistribution_state, self.step.forget_gradients])
        others = {id(t): t for t in held if id(t) not in models}
        return sum(t.nbytes for t in moments), sum(t.nbytes for t in others.values())


def _tensors(thing: Any) -> Iterator[torch.Tensor]:
    """Every tensor in this object, its attributes and what they contain."""
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, Mapping):
        yield from _tensors(list(thing.values()))
    elif isinstance(thing, list | tuple):
        for part in thing:
            yield from _tensors(part)
    elif hasattr(thing, "__dict__"):
        yield from _tensors(vars(thing))


def main() -> None:
    parser = argparse.ArgumentParser(description="SAU's step over the plain step")
    parser.add_argument("--steps", type=int, default=7, help="rounds after one that is not counted")
    parser.add_argument("--sides", nargs="+", default=SIDES, help="redistributions; natural and compensated are slow")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = smollm2_shape()
    mask = half_mask(model)
    apply_mask(model, mask)
    names = ("plain", *args.sides)
    sides = {name: Side(name, model, {} if name == "plain" else mask) for name in names}
    rounds = []
    for number in range(args.steps + 1):
        order = names[number % len(names) :] + names[: number % len(names)]
        timed = {name: sides[name].seconds() for name in order}
        if number:
            rounds.append(timed)
    in_model = statistics.median(taken - outside for r in rounds for taken, outside in r.values())
    outside = {name: statistics.median(r[name][1] for r in rounds) for name in names}
    dense, _ = sides["plain"].state_bytes()
    report = {}
    for name, side in sides.items():
        moments, others = side.state_bytes()
        report[name] = {
            "cpu_s": statistics.median(r[name][0] for r in rounds),
            "outside_model_cpu_s": outside[name],
            "ratio": statistics.median(r[name][0] / r["plain"][0] for r in rounds),
            "ratios": [round(r[name][0] / r["plain"][0], 3) for r in rounds],
            "ratio_same_model": (in_model + outside[name]) / (in_model + outside["plain"]),
            "adamw_state_bytes": moments,
            "adamw_state_ratio": moments / dense,
            "all_state_bytes": moments + others,
            "all_state_ratio": (moments + others) / dense,
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
