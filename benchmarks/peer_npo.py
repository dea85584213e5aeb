"""NPO against open-unlearning's trainer in one run: the same losses, and how many tokens per CPU second.

    python -m benchmarks.peer_npo --open-unlearning PATH [--tofu FOLDER] [--steps 10]

Their side: their NPO trainer's `compute_loss` and their collator, with torch's fused AdamW and clipping as
transformers' Trainer does them, without the Trainer's own overhead. Our side: the loop's own step.
Both start from the same weights, dense (no mask), constant learning rate, no weight decay. The retain term is theirs on
both sides, a mean over the batch's tokens (ours would weigh every record the same).

Three runs. `same batches`: both take the same rows at every step, drawn at random as theirs are, embeddings frozen on
both sides, and the losses have to agree. `own batches`: each draws its own from the same rows, theirs at random, ours
of similar length. `defaults`: the same, and their side moves the embeddings as well, as their trainer does; ours
freezes them, as our loop does. This is what a user of each gets. Tokens are real ones, padding does not count; sides
take turns, each step timed in CPU seconds; the work that is done once (our reference, their copy of the model) is given
beside it.
"""

import argparse
import copy
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from benchmarks.open_unlearning import item, modules
from sau.data.demo import demo_rows
from sau.data.records import Row
from sau.data.tofu import load_tofu
from sau.models.batches import Encoded
from sau.models.language_model import LanguageModel
from sau.models.outputs import Outputs
from sau.models.sources import ModelParams, base_model
from sau.training.finetune import FinetuneParams, finetune
from sau.training.optimizer import SurvivorAdamW
from sau.training.session import training
from sau.unlearn.objectives.base import Setting
from sau.unlearn.objectives.npo import Npo
from sau.unlearn.unlearn import UnlearnParams, UnlearnStep

BATCH_SIZE = 8
BETA = 0.1


class TokenMeanNpo(Npo):
    """NPO with open-unlearning's retain term: the mean over all answer tokens of the batch."""

    name: Literal["token_mean_npo"] = "token_mean_npo"  # type: ignore[assignment]

    def retain_loss(self, retain: Outputs, state: Any) -> Tensor:
        return -retain.logp_N.mean()


class Ours:
    """Our step; `order` None leaves the batches to the loop."""

    def __init__(self, lm: LanguageModel, forget: list[Row], retain: list[Row], lr: float, order: Any) -> None:
        self.setting = Setting(lm, forget, lm.encode(forget), lm.encode(retain), [])
        self.lr = lr
        self.frame = training(lm, freeze_embeddings=True)
        optimizer = SurvivorAdamW(self.frame.__enter__(), {})
        params = UnlearnParams(
            objective=TokenMeanNpo(beta=BETA),
            redistribution="none",
            lr=lr,
            max_steps=1,
            batch_size=BATCH_SIZE,
            stop=None,
        )
        self._step = UnlearnStep(self.setting, optimizer, params, 0)
        if order:
            self._step.forget_order, self._step.retain_order = order
        self.taken: list[Encoded] = []
        self._step.forget_order = self._note(self._step.forget_order, self.setting.forget)
        self._step.retain_order = self._note(self._step.retain_order, self.setting.retain)

    def _note(self, order: Iterator[list[int]], sequences: list[Encoded]) -> Iterator[list[int]]:
        for rows in order:
            self.taken += [sequences[i] for i in rows]
            yield sorted(rows, key=lambda row: len(sequences[row].input_ids))  # as the loop's own batches are

    def step(self) -> float:
        return self._step(self.lr, 1.0)["loss"]

    def num_tokens(self) -> int:
        """Real tokens since the last call."""
        taken, self.taken = self.taken, []
        return sum(len(s.input_ids) for s in taken)


class Theirs:
    """open-unlearning's NPO trainer in a plain loop."""

    def __init__(
        self,
        peer: list[Any],
        lm: LanguageModel,
        rows: tuple[list[Row], list[Row]],
        lr: float,
        order: Any,
        freeze_embeddings: bool,
    ) -> None:
        from transformers import TrainingArguments

        npo, collators = peer
        self.forget, self.retain = (lm.encode(part) for part in rows)
        self.order = order
        self.collate = collators.DataCollatorForSupervisedDataset(lm.tokenizer)
        embeddings = (lm.model.get_input_embeddings(), lm.model.get_output_embeddings()) if freeze_embeddings else ()
        frozen = {id(p) for module in embeddings for p in module.parameters()}
        for parameter in lm.model.parameters():
            parameter.requires_grad_(id(parameter) not in frozen)
        with tempfile.TemporaryDirectory() as folder:
            args = TrainingArguments(folder, use_cpu=True, report_to=[])
            self.trainer = npo.NPO(beta=BETA, model=lm.model, args=args)
        self.model = lm.model.train()
        self.moving = [p for p in self.model.parameters() if p.requires_grad]
        self.adamw = torch.optim.AdamW(self.moving, lr=lr, weight_decay=0.0, fused=True)
        self.taken: list[Encoded] = []

    def step(self) -> float:
        parts = {}
        for name, sequences, order in zip(("forget", "retain"), (self.forget, self.retain), self.order, strict=True):
            chosen = [sequences[i] for i in next(order)]
            self.taken += chosen
            batch = self.collate([item(s, i) for i, s in enumerate(chosen)])
            parts[name] = batch
        loss = self.trainer.compute_loss(self.model, parts)
        loss.backward()
        clip_grad_norm_(self.moving, 1.0)
        self.adamw.step()
        self.adamw.zero_grad()
        return float(loss.detach())

    num_tokens = Ours.num_tokens


def at_random(num_rows: int, seed: int) -> Iterator[list[int]]:
    """Full batches of random rows, epoch after epoch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(num_rows, generator=generator)
        yield from (rows.tolist() for rows in order.split(BATCH_SIZE) if len(rows) == BATCH_SIZE)


def run(
    peer: list[Any],
    lm: LanguageModel,
    rows: tuple[list[Row], list[Row]],
    lr: float,
    steps: int,
    *,
    shared: bool = False,
    freeze_theirs: bool = True,
) -> dict[str, Any]:
    """CPU seconds, tokens and losses of `steps` steps of each side, sides in turn.

    Args:
        shared: both on the same batches.
        freeze_theirs: whether their side's embeddings are frozen as ours are.
    """
    forget, retain = rows
    orders = [(at_random(len(forget), 0), at_random(len(retain), 1)) for _ in range(2)]
    copies = [LanguageModel(copy.deepcopy(lm.model), lm.tokenizer, lm.prompt) for _ in range(2)]
    makers: dict[str, Callable[[], Ours | Theirs]] = {
        "theirs": lambda: Theirs(peer, copies[0], rows, lr, orders[0], freeze_theirs),
        "ours": lambda: Ours(copies[1], forget, retain, lr, orders[1] if shared else None),
    }
    sides, once = {}, {}
    for name, make in makers.items():
        before = time.process_time()
        sides[name] = make()
        once[name] = time.process_time() - before
    losses: dict[str, list[float]] = {name: [] for name in sides}
    seconds, tokens = dict.fromkeys(sides, 0.0), dict.fromkeys(sides, 0)
    gc.collect()  # a Trainer is a cycle: the last run's model and optimizer would stay
    for number in range(steps):
        for name in sorted(sides, reverse=bool(number % 2)):
            before = time.process_time()
            losses[name].append(sides[name].step())
            seconds[name] += time.process_time() - before
            tokens[name] += sides[name].num_tokens()
            print(number, name, losses[name][-1], seconds[name], file=sys.stderr, flush=True)
    rate = {name: tokens[name] / seconds[name] for name in sides}
    pairs = list(zip(losses["ours"], losses["theirs"], strict=True))
    agreement = {
        "largest_loss_difference": max(abs(a - b) for a, b in pairs),
        "relative": max(abs(a - b) / abs(b) for a, b in pairs),
    }
    return {
        "cpu_s": seconds,
        "once_cpu_s": once,
        "tokens": tokens,
        "tokens_per_cpu_s": rate,
        "ratio": rate["ours"] / rate["theirs"],
        **({"losses": losses, **agreement} if shared else {}),
    }


def compare(
    peer: list[Any], lm: LanguageModel, rows: tuple[list[Row], list[Row]], lr: float, steps: int
) -> dict[str, Any]:
    """The three runs for one model, one after the other: only two copies with their optimizers are in memory."""
    return {
        "steps": steps,
        "batch_size": BATCH_SIZE,
        "same batches": run(peer, lm, rows, lr, steps, shared=True),
        "own batches": run(peer, lm, rows, lr, steps),
        "defaults": run(peer, lm, rows, lr, steps, freeze_theirs=False),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="NPO against open-unlearning's trainer in one run")
    parser.add_argument("--open-unlearning", type=Path, required=True, help="a checkout of open-unlearning")
    parser.add_argument("--tofu", help="TOFU's folder: SmolLM2-135M on forget01 as well as the tiny model")
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    peer = modules(args.open_unlearning, "trainer.unlearn.npo", "data.collators")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    reports = {}
    lm = base_model(ModelParams(), seed=0)
    people = [[row for n in range(start, start + 5) for row in demo_rows(f"peer-{n}", seed=0)] for start in (0, 5)]
    finetune(lm, lm.encode(people[0] + people[1]), FinetuneParams(epochs=3, lr=2e-3), seed=0, num_threads=1)
    reports["tiny"] = compare(peer, lm, (people[0], people[1]), 1e-4, args.steps)
    if args.tofu:
        train, _ = load_tofu(args.tofu, num_retain=100)
        smollm2 = base_model(ModelParams(source="smollm2"), seed=0)
        reports["smollm2"] = compare(peer, smollm2, (train[:40], train[40:]), 1e-5, args.steps)
    print(json.dumps(reports, indent=1))


if __name__ == "__main__":
    main()
