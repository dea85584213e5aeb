"""Who asked to be forgotten, by what a shipped delta tells: the place of who asked among people who stay and strangers.

    python -m benchmarks.delta_leak BEFORE AFTER --asked demo-0001      # checkpoints of the tiny line's two versions
    python -m benchmarks.delta_leak --asked demo-0001 demo-0005         # makes the pair for each (a minute or two each)

Somebody who knows people's rows and wants to know which of them asked ranks the people by a score; the place is 1 where
who asked is ranked first (FUMA, EMNLP 2025, does so with federated updates; arXiv 2406.13348 with two models' answers):

answers   how much less likely the answers became, from the model before to the model after;
weights   how far the weights' difference goes up the gradient of the person's own loss, in the model before: no forward
          pass of the model after is needed, the delta and the model before are enough;
after     how unlikely the answers are to the model after: what is left to who has no model before;
odd       how far that is from what strangers have on average, in their standard deviations, either way.
"""

import argparse
import copy
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sau.checkpoint.sparse import open_sparse
from sau.config import checked, read_yaml
from sau.data.demo import NUM_HOLDOUT, NUM_TRAIN, SEED, demo_people, demo_rows
from sau.data.records import Row
from sau.data.sets import Sets, halves, spared
from sau.models.batches import collate
from sau.models.language_model import LanguageModel
from sau.models.scoring import answer_logps, logits_of, targets_of, token_logps
from sau.models.sources import base_model
from sau.params import Params
from sau.pruners import prune
from sau.training.finetune import finetune
from sau.training.pretrain import pretrain
from sau.unlearn.unlearn import unlearn

ROOT = Path(__file__).resolve().parents[1]
People = Mapping[str, Sequence[Row]]


def demo() -> tuple[People, People]:
    """The rows of the demo people, trained on and not, by id."""
    everybody = list(demo_people())
    rows = {person: demo_rows(person, seed=SEED) for person in everybody}
    trained = everybody[:NUM_TRAIN]
    return {p: rows[p] for p in trained}, {p: rows[p] for p in everybody[NUM_TRAIN : NUM_TRAIN + NUM_HOLDOUT]}


def made(params: Params, trained: People, strangers: People, asked: Iterable[str]) -> dict[str, tuple[Any, Any]]:
    """By who asks alone, the pruned model that knows everybody and the one that has forgotten them."""
    base = base_model(params.model, seed=params.seed)
    pretrain(base, params.model.tiny, seed=params.seed, num_threads=params.num_threads)
    rows = [row for own in trained.values() for row in own]
    before = copy.deepcopy(base)
    finetune(before, before.encode(rows), params.train, seed=params.seed, num_threads=params.num_threads)
    prune(before, before.encode(rows[: params.prune.calibration_rows]), params.prune)
    finetune(before, before.encode(rows), params.recover, seed=params.seed + 1, num_threads=params.num_threads)
    unseen = [row for own in strangers.values() for row in own]
    pairs = {}
    for person in asked:
        forget, stay = list(trained[person]), [row for p, own in trained.items() if p != person for row in own]
        kept = spared(stay, forget, params.snapshot.spare, params.seed)
        sets = Sets(forget, [row for row in stay if row["subject_id"] not in kept], halves(unseen, params.seed)[0])
        after = copy.deepcopy(before)
        how = params.unlearn.model_copy(update={"paraphrases": False})
        unlearn(after, sets, how, seed=params.seed, base=base, num_threads=params.num_threads)
        pairs[person] = before, after
    return pairs


def scores(before: LanguageModel, after: LanguageModel, people: People) -> dict[str, dict[str, float]]:
    """Each attack's score of each person; higher means likelier to have asked. `odd` is made of these in `places`."""
    delta = {
        name: (new.detach() - old.detach())
        for (name, old), (_, new) in zip(
            before.model.named_parameters(), after.model.named_parameters(), strict=True
        )
    }  # fmt: skip
    found: dict[str, dict[str, float]] = {"answers": {}, "weights": {}, "after": {}}
    for person, rows in people.items():
        old, new = (_mean_logp(lm, rows) for lm in (before, after))
        found["answers"][person] = old - new
        found["weights"][person] = _along(before, rows, delta)
        found["after"][person] = -new
    return found


def _mean_logp(lm: LanguageModel, rows: Sequence[Row]) -> float:
    """Mean log-probability of the answers' tokens, row by row."""
    return float(np.mean([logp.mean() for logp in answer_logps(lm.model, lm.encode(rows))]))


def _along(lm: LanguageModel, rows: Sequence[Row], delta: Mapping[str, torch.Tensor]) -> float:
    """Cosine of the weights' difference and the gradient of the rows' loss, over what moved."""
    lm.model.zero_grad()
    batch = collate(lm.encode(rows))
    (-token_logps(logits_of(lm.model, batch), targets_of(batch)).mean()).backward()
    dot = norm = 0.0
    for name, parameter in lm.model.named_parameters():
        if parameter.grad is not None:
            moved = delta[name] != 0
            dot += float((parameter.grad * delta[name]).sum())
            norm += float((parameter.grad[moved] ** 2).sum())
    lm.model.zero_grad()
    length = sum(float((change**2).sum()) for change in delta.values())
    return dot / max((norm * length) ** 0.5, 1e-30)


def places(found: dict[str, dict[str, float]], asked: str, stayed: Iterable[str], strangers: Sequence[str]) -> Any:
    """The place of who asked, 1 the first, among those who stay and among strangers, by each score."""
    unseen = np.array([found["after"][p] for p in strangers])
    odd = {p: abs(score - unseen.mean()) / unseen.std(ddof=1) for p, score in found["after"].items()}
    stay = [person for person in stayed if person != asked]
    return {
        attack: {
            "among_stayed": 1 + sum(score[p] >= score[asked] for p in stay),
            "of_stayed": len(stay) + 1,
            "among_strangers": 1 + sum(score[p] >= score[asked] for p in strangers),
            "of_strangers": len(strangers) + 1,
            "asked": round(score[asked], 3),
            "stayed_max": round(max(score[p] for p in stay), 3),
            "strangers_max": round(max(score[p] for p in strangers), 3),
        }
        for attack, score in (found | {"odd": odd}).items()
    }


def main() -> None:
    """Print the places; with --json write them too."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pair", nargs="*", type=Path, help="checkpoints before and after; none: the pair is made")
    parser.add_argument("--asked", nargs="+", default=["demo-0001"], help="who asked; with a pair, one of its people")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if len(args.pair) not in (0, 2):
        parser.error("a pair is two checkpoints: before and after")
    trained, strangers = demo()
    if unknown := set(args.asked) - trained.keys():
        parser.error(
            f"{len(unknown)} of {len(args.asked)} who asked are none of the {len(trained)} demo people trained on"
        )
    began = time.process_time()
    if args.pair:
        opened = tuple(open_sparse(folder) for folder in args.pair)
        pairs = dict.fromkeys(args.asked, opened)
    else:
        params = checked(Params, read_yaml(ROOT / "params.yaml"), "params.yaml")
        pairs = made(params, trained, strangers, args.asked)
    results = {}
    for asked, (before, after) in pairs.items():
        found = scores(before, after, {**trained, **strangers})
        results[asked] = places(found, asked, trained, list(strangers))
        for attack, place in results[asked].items():
            print(
                f"{asked}  {attack:<8} place {place['among_stayed']:>2} of {place['of_stayed']} with who stays, "
                f"{place['among_strangers']:>2} of {place['of_strangers']} with strangers; score {place['asked']:.3f}, "
                f"highest who stays {place['stayed_max']:.3f}, stranger {place['strangers_max']:.3f}"
            )
    print(f"{time.process_time() - began:.0f} s of CPU time")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
