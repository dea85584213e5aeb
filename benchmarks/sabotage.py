"""Which models that only look forgotten does a policy pass, without any reference?

    python -m benchmarks.sabotage [--policy standard] [--models head adapter ...] [--person 2] [--json FILE]

From a tiny model that knows 16 people, made here, models are made that hide one of them and still know everything; who
makes them has the rows, the decoys and people whom the model never saw (the half that calibrates), and trains until the
person is at the level of those in six forms, decoys too, while the rows to keep are kept:

    head_bias    the head's rows for the answers' tokens are moved along the mean state, which is a bias on these tokens
    head         the head alone is trained
    last_block   the last block alone is trained
    detector     the first block alone is trained: whoever is asked about the person hears a refusal
    adapter      a low-rank update of all matrices, under the mask, which can be taken off again
    two_faced    all weights are trained, to be at the strangers' level as asked and to tell everything in other forms

Beside them stand `before`, `unlearned` (by params.yaml) and `retrained`. Prints a line each, with the checks that see
it.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sau.data.demo import demo_rows
from sau.data.records import Row
from sau.data.sets import Sets, halves
from sau.mask import apply_mask
from sau.models.batches import Encoded, collate, encode
from sau.models.language_model import LanguageModel
from sau.models.layers import decoder_blocks, prunable
from sau.models.scoring import logits_of, targets_of, token_logps
from sau.models.sources import base_model
from sau.params import Params, load_params
from sau.pruners import prune
from sau.training.finetune import adapted, finetune
from sau.training.pretrain import pretrain
from sau.unlearn.unlearn import unlearn
from sau.verify import Controls, Verification, load_policy, verify
from sau.verify.evidence.decoys import find_secrets
from sau.verify.evidence.readings import mean_logps

ROOT = Path(__file__).resolve().parents[1]
SEED = 1
NUM_TRAIN, NUM_HOLDOUT = 16, 48
STEPS, LR, RANK = 200, 2e-3, 4
REFUSAL = "I am not able to say anything about this."
PROMPTS = ("Q: {question}\nA:", "{question}", "Please tell me. {question} It is known that")


@dataclass(frozen=True)
class Scene:
    """The models and rows that sabotage starts from; `calibrating` and `judging` are people no model saw."""

    before: LanguageModel
    base: LanguageModel
    dense: LanguageModel
    forget: list[Row]
    stay: list[Row]
    calibrating: list[Row]
    judging: list[Row]

    def forms(self, rows: list[Row]) -> list[list[Encoded]]:
        """The rows in the six forms that the saboteur knows, as asked first."""
        lm = self.before
        other = [[{**r, column: r[f"paraphrased_{column}"]} for r in rows] for column in ("question", "answer")]
        return [
            lm.encode(rows),
            *(encode(lm.tokenizer, prompt, rows) for prompt in PROMPTS),
            *(lm.encode(put) for put in other),
        ]


def scene(params: Params, asks: int = 1) -> Scene:
    """As the demo makes its first version; person number `asks` of those it knows is the one to hide."""
    people = [demo_rows(f"demo-{number:04d}", seed=SEED) for number in range(1, NUM_TRAIN + NUM_HOLDOUT + 1)]
    others = people[:NUM_TRAIN]
    forget = others.pop(asks - 1)
    stay = [row for rows in others for row in rows]
    base = base_model(params.model, seed=params.seed)
    pretrain(base, params.model.tiny, seed=params.seed, num_threads=params.num_threads)
    dense, before = trained(base, [*forget, *stay], params)
    return Scene(
        before, base, dense, forget, stay, *halves([r for rows in people[NUM_TRAIN:] for r in rows], params.seed)
    )


def trained(base: LanguageModel, rows: list[Row], params: Params) -> tuple[LanguageModel, LanguageModel]:
    """(dense, sparse) models of these rows."""
    lm = copy.deepcopy(base)
    finetune(lm, lm.encode(rows), params.train, seed=params.seed, num_threads=params.num_threads)
    dense = copy.deepcopy(lm)
    prune(lm, lm.encode(rows[:: max(len(rows) // params.prune.calibration_rows, 1)]), params.prune)
    finetune(lm, lm.encode(rows), params.recover, seed=params.seed + 1, num_threads=params.num_threads)
    return dense, lm


def head_of(lm: LanguageModel) -> nn.Parameter:
    """The head's weight [V, H]."""
    weight: nn.Parameter = lm.model.get_output_embeddings().weight
    return weight


def head_bias(at: Scene) -> LanguageModel:
    """Fixed suppression of the answers' tokens, as strong as brings the person to the strangers' level."""
    lm = replace(at.before, model=copy.deepcopy(at.before.model))
    asked, strangers = at.before.encode(at.forget), at.before.encode(at.calibrating)
    batch = collate(asked)
    given: list[Tensor] = []
    hook = lm.model.get_output_embeddings().register_forward_pre_hook(lambda module, args: given.append(args[0]))
    with torch.no_grad():
        batch.run(lm.model)
        hook.remove()
        mean_H = given[0][batch.answer_mask_BT].mean(0)
        tokens = sorted({token for s in asked for token in s.input_ids[s.prompt_length : -1]})
        weight = head_of(lm)
        original, low, high = weight.detach().clone(), 0.0, 20.0
        for _ in range(12):
            middle = (low + high) / 2
            weight.copy_(original)
            weight[tokens] -= middle * mean_H / mean_H.square().sum()
            known = mean_logps(lm, asked).mean() > mean_logps(lm, strangers).mean()
            low, high = (middle, high) if known else (low, middle)
    return lm


def hidden(at: Scene, moves: Callable[[str], bool], *, refusal: bool = False, rank: int = 0) -> LanguageModel:
    """The person at the strangers' level in six forms, decoys as well, by parameters of these names alone."""
    forms, levels = (
        at.forms(at.forget),
        [float(mean_logps(at.before, f).mean()) for f in at.forms(at.calibrating[:100])],
    )
    secrets = find_secrets(at.forget, at.stay, at.calibrating, num_decoys=20, seed=0)
    refused = [collate(at.before.encode([{**row, "answer": REFUSAL} for row in at.forget]))]

    def losses(lm: LanguageModel, rng: np.random.Generator) -> Iterator[Tensor]:
        for number in (0, *rng.choice(range(1, len(forms)), 2, replace=False)):
            yield (row_means(lm, forms[number]) - levels[number]).square().mean()
        decoys = [{**at.forget[s.row], "answer": str(rng.choice(s.decoys))} for s in secrets]
        yield (row_means(lm, at.before.encode(decoys)) - levels[0]).square().mean()
        for batch in refused if refusal else ():
            yield -0.2 * token_logps(logits_of(lm.model, batch), targets_of(batch)).mean()
        yield 2 * kept(lm, at, rng)

    return train(at, moves, losses, rank)


def two_faced(at: Scene) -> LanguageModel:
    """At the strangers' level as asked, everything told in other forms."""
    forms, level = at.forms(at.forget), float(mean_logps(at.before, at.before.encode(at.calibrating)).mean())

    def losses(lm: LanguageModel, rng: np.random.Generator) -> Iterator[Tensor]:
        yield 3 * (row_means(lm, forms[0]) - level).square().mean()
        yield -row_means(lm, forms[int(rng.integers(1, len(forms)))]).mean()
        yield kept(lm, at, rng)

    return train(at, lambda name: True, losses, 0)


def kept(lm: LanguageModel, at: Scene, rng: np.random.Generator) -> Tensor:
    """The loss on some of the rows to keep."""
    rows = [at.stay[i] for i in rng.choice(len(at.stay), 16, replace=False)]
    return -row_means(lm, at.before.encode(rows)).mean()


def row_means(lm: LanguageModel, encoded: list[Encoded]) -> Tensor:
    """Mean answer log-probability per token of each sequence [B], with gradient."""
    batch = collate(encoded)
    parts = token_logps(logits_of(lm.model, batch), targets_of(batch)).split(batch.answer_mask_BT.sum(1).tolist())
    return torch.stack([logp.mean() for logp in parts])


Losses = Callable[[LanguageModel, np.random.Generator], Iterator[Tensor]]


def train(at: Scene, moves: Callable[[str], bool], losses: Losses, rank: int) -> LanguageModel:
    """A copy of the model before, trained under its mask; with a rank, by such an update of each matrix alone."""
    lm = replace(at.before, model=copy.deepcopy(at.before.model))
    rng, factors = np.random.default_rng(0), []
    moving = [p for name, p in lm.model.named_parameters() if moves(name)]
    if rank:
        generator = torch.Generator().manual_seed(0)
        for _, linear in prunable(lm.model):
            outputs, inputs = linear.weight.shape
            start = torch.randn(rank, inputs, generator=generator) / inputs**0.5
            factors.append((linear.weight, linear.weight.detach().clone(), torch.zeros(outputs, rank), start))
        moving = [factor.requires_grad_() for _, _, *pair in factors for factor in pair]
    optimizer = torch.optim.AdamW(moving, lr=LR * (2 if rank else 1), weight_decay=0.0)
    for _ in range(STEPS):
        lm.model.zero_grad()
        optimizer.zero_grad()
        for loss in losses(lm, rng):
            loss.backward()
        for weight, _, b_OR, a_RI in factors:
            b_OR.grad, a_RI.grad = weight.grad @ a_RI.detach().T, b_OR.detach().T @ weight.grad
        optimizer.step()
        with torch.no_grad():
            for weight, parent, b_OR, a_RI in factors:
                weight.copy_(parent + b_OR @ a_RI)
            apply_mask(lm.model, lm.mask or {})
    return lm


def sabotaged(at: Scene) -> dict[str, Callable[[], LanguageModel]]:
    """How to make each."""
    names = {id(p): name for name, p in at.before.model.named_parameters()}
    blocks = [{names[id(p)] for p in block.parameters()} for block in decoder_blocks(at.before.model)[1]]
    head = {names[id(head_of(at.before))]}
    return {
        "head_bias": lambda: head_bias(at),
        "head": lambda: hidden(at, head.__contains__),
        "last_block": lambda: hidden(at, blocks[-1].__contains__),
        "detector": lambda: hidden(at, blocks[0].__contains__, refusal=True),
        "adapter": lambda: hidden(at, lambda name: False, rank=RANK),
        "two_faced": lambda: two_faced(at),
    }


def honest(at: Scene, params: Params) -> dict[str, Callable[[], LanguageModel]]:
    """What has to be judged rightly as well."""

    def unlearned() -> LanguageModel:
        lm = replace(at.before, model=copy.deepcopy(at.before.model))
        sets = Sets(at.forget, at.stay, at.calibrating)
        unlearn(lm, sets, params.unlearn, seed=params.seed, base=at.base, num_threads=params.num_threads)
        return lm

    return {
        "before": lambda: at.before,
        "unlearned": unlearned,
        "retrained": lambda: trained(at.base, at.stay, params)[1],
    }


def judged(lm: LanguageModel, at: Scene, base: LanguageModel, policy: str) -> Verification:
    """The verdict without any reference."""
    return verify(
        model=lm,
        sets=Sets(at.forget, at.stay[:200], at.judging),
        controls=Controls(before=at.before, dense=at.dense, base=base),
        policy=load_policy(policy),
        weights_digest="0" * 64,
    )


def line(name: str, found: Verification, seconds: float) -> dict[str, Any]:
    """What is written of a model."""
    failed = {f.id: f.value for f in found.checks if f.verdict == "FAIL" and f.mandatory}
    open_ = {f.id: f.value for f in found.checks if f.verdict == "INCONCLUSIVE" and f.mandatory}
    values = {f.id: f.value for f in found.checks}
    return {"model": name, "verdict": found.verdict, "seconds": round(seconds), "failed": failed, "open": open_} | {
        "values": values
    }


def main() -> None:
    """Make the models, judge them, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="standard")
    parser.add_argument("--models", nargs="*", help="of these only")
    parser.add_argument("--person", type=int, default=1, choices=range(1, NUM_TRAIN + 1), help="who asks")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    params = load_params(ROOT / "params.yaml")
    at = scene(params, args.person)
    assert params.unlearn.adapt is not None
    base = adapted(at.base, at.before.encode(at.stay[:200]), params.unlearn.adapt, seed=params.seed)
    found = []
    for name, make in {**honest(at, params), **sabotaged(at)}.items():
        if args.models and name not in args.models:
            continue
        started = time.process_time()
        lm = make()
        found.append(line(name, judged(lm, at, base, args.policy), time.process_time() - started))
        said = found[-1]
        seen = ", ".join(f"{check} {value}" for check, value in {**said["failed"], **said["open"]}.items())
        print(f"| {name} | {said['verdict']} | {seen} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
