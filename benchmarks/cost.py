"""What a request costs beside retraining: CPU seconds, step by step, with 140 to 4,000 rows to keep.

    python -m benchmarks.cost --tofu ../shared/data/tofu [--rows 140 400 1600 4000] [--json FILE]

SmolLM2 by its profile (--profile none: the tiny model of params.yaml) learns some TOFU authors, the first of whom asks.
With the fewest rows everything is done and timed whole: training, pruning, recovery, unlearning to its goal, and the
verdict by the profile's policy beside strangers and without any retrained model. With more rows the same model stands
for one that has learned them all, since no step's time depends on what a model knows: unlearning is timed up to its
first two readings, and the rest of its steps and readings counted as many as with the fewest rows; retraining is as
many steps as there would be, of the time that a step took. The verdict reads no more of more rows (`max_retain_rows`),
so its time is taken as it is. Rows beyond TOFU's are its own again, under other names.
"""

import argparse
import copy
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from sau.config import checked, merge, read_yaml
from sau.data.records import Row
from sau.data.sets import Sets, halves, spared
from sau.data.tofu import load_tofu
from sau.models.language_model import LanguageModel
from sau.models.sources import TINY, base_model
from sau.params import Params
from sau.pruners import prune
from sau.training.finetune import adapted, finetune, num_steps
from sau.training.pretrain import pretrain
from sau.training.session import History
from sau.unlearn.unlearn import unlearn
from sau.verify import Controls, Verification, load_policy, verify
from tasks.battery import sampled

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
ROWS_EACH, NUM_HOLDOUT = 20, 800


@dataclass(frozen=True)
class Retraining:
    """CPU seconds of its parts, whatever the number of rows."""

    train_step: float
    recover_step: float
    pruning: float

    def of(self, rows: int, params: Params) -> float:
        """Of as many rows, pruned and recovered."""
        steps = num_steps(params.train, rows) * self.train_step + num_steps(params.recover, rows) * self.recover_step
        return steps + self.pruning


@dataclass(frozen=True)
class Unlearning:
    """CPU seconds of its parts; `rest` is what there is once: encoding, adapting the base model, references."""

    total: float
    step: float
    reading: float
    steps: int
    readings: int

    @property
    def rest(self) -> float:
        return self.total - self.steps * self.step - self.readings * self.reading


def timed(what: str, do: Callable[[], T]) -> tuple[T, float]:
    """Its result and CPU seconds, told."""
    started, wall = time.process_time(), time.monotonic()
    result = do()
    spent = time.process_time() - started
    print(f"{what}: {spent:.0f} s of CPU, {time.monotonic() - wall:.0f} s", flush=True)
    return result, spent


def learned(params: Params, rows: list[Row]) -> tuple[LanguageModel, LanguageModel, Retraining]:
    """(the base model, the sparse model that knows these rows, what that cost)."""
    base = base_model(params.model, seed=params.seed)
    if params.model.source == TINY:
        pretrain(base, params.model.tiny, seed=params.seed, num_threads=params.num_threads)
    lm = copy.deepcopy(base)
    encoded = lm.encode(rows)
    seed, threads = params.seed, params.num_threads
    first, training = timed("training", lambda: finetune(lm, encoded, params.train, seed=seed, num_threads=threads))
    _, pruning = timed("pruning", lambda: prune(lm, encoded[-params.prune.calibration_rows :], params.prune))
    second, recovery = timed(
        "recovery", lambda: finetune(lm, encoded, params.recover, seed=seed + 1, num_threads=threads)
    )
    return base, lm, Retraining(training / first.steps, recovery / second.steps, pruning)


def unlearned(
    lm: LanguageModel, base: LanguageModel, sets: Sets, params: Params, *, most: int | None = None
) -> tuple[LanguageModel, History, Unlearning]:
    """(the model that has forgotten, how, what it cost); after at most `most` steps."""
    stamps: list[float] = []
    changes: dict[str, Any] = {"paraphrases": False} | ({"max_steps": most} if most else {})
    how = params.unlearn.model_copy(update=changes)
    lm = replace(lm, model=copy.deepcopy(lm.model))
    history, total = timed(
        f"unlearning, {len(sets.retain)} rows to keep",
        lambda: unlearn(
            lm,
            sets,
            how,
            seed=params.seed,
            base=base,
            num_threads=params.num_threads,
            progress=lambda step, of, numbers: stamps.append(time.process_time()),
        ),
    )
    read = {int(reading["step"]) for reading in history.trajectory}
    between = [(after - before, number in read) for number, (before, after) in enumerate(itertools.pairwise(stamps), 1)]
    step = statistics.median(seconds for seconds, with_reading in between if not with_reading)
    reading = statistics.median([seconds for seconds, with_reading in between if with_reading]) - step
    return lm, history, Unlearning(total, step, reading, len(stamps), len(read))


def more_rows(rows: list[Row], number: int) -> list[Row]:
    """So many rows, from the first on again under other names where there are not as many."""
    return [
        {**row, "record_id": f"{row['record_id']}-{again}", "subject_id": f"{row['subject_id']}-{again}"}
        if again
        else row
        for again in range(-(-number // len(rows)))
        for row in rows
    ][:number]


def told(found: Verification) -> dict[str, Any]:
    """The verdict and what it rests on, as numbers."""
    checks = {
        f.id: {"verdict": f.verdict, "value": f.value, "before": f.before, "reason": f.reason} for f in found.checks
    }
    return {"verdict": found.verdict, "reasons": found.reasons, "rows_read": found.rows_read, "checks": checks}


def main() -> None:
    """Measure, print the table, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tofu", required=True, help="TOFU's folder")
    parser.add_argument("--rows", type=int, nargs="+", default=[140, 400, 1600, 4000])
    parser.add_argument("--profile", default="smollm2", choices=["smollm2", "none"])
    parser.add_argument("--set", default="{}", help="parameters over the profile's, as JSON")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    profile = read_yaml(ROOT / "profiles" / f"{args.profile}.yaml") if args.profile != "none" else {}
    params = checked(Params, merge(merge(read_yaml(ROOT / "params.yaml"), profile), json.loads(args.set)), "parameters")
    torch.set_num_threads(params.num_threads)
    fewest = min(args.rows)
    known, strangers = load_tofu(args.tofu, num_retain=max(fewest // ROWS_EACH, 1) * ROWS_EACH, num_holdout=NUM_HOLDOUT)
    asked, keep = known[:ROWS_EACH], known[2 * ROWS_EACH :][:fewest]
    calibrating, judging = halves(strangers, params.seed)
    base, before, retraining = learned(params, [*asked, *keep])
    unseen = spared(keep, asked, params.snapshot.spare, params.seed)
    shown = [row for row in keep if row["subject_id"] not in unseen]
    lm, history, whole = unlearned(before, base, Sets(asked, shown, calibrating), params)
    print(f"{history.steps} steps, {history.stopped}", flush=True)
    sets = sampled(Sets(asked, keep, judging, spared=unseen), params)
    assert params.unlearn.adapt is not None
    adapting = params.unlearn.adapt
    adapted_base, adapt_s = timed(
        "adapting the base model for the verdict",
        lambda: adapted(base, base.encode(keep), adapting, seed=params.seed, num_threads=params.num_threads),
    )
    found, judging_s = timed(
        "the verdict",
        lambda: verify(
            model=lm,
            sets=sets,
            controls=Controls(before=before, base=adapted_base),
            policy=load_policy(params.verify.policy),
            weights_digest="0" * 64,
            seed=params.seed,
            progress=lambda message: print(f"  {message}", flush=True),
        ),
    )
    print(found.verdict, *found.reasons, sep="\n  ", flush=True)
    table = []
    for rows in args.rows:
        spent = whole
        if rows != fewest:
            sets = Sets(asked, more_rows(shown + strangers, rows), calibrating)
            most = 2 * (params.unlearn.stop.eval_every if params.unlearn.stop else 2)
            spent = unlearned(before, base, sets, params, most=most)[2]
        total = spent.rest + whole.steps * spent.step + whole.readings * spent.reading
        again = retraining.of(rows, params)
        table.append(
            {
                "rows": rows,
                "retraining": again,
                "once": spent.rest,
                "steps": whole.steps * spent.step,
                "readings": whole.readings * spent.reading,
                "verdict": adapt_s + judging_s,
                "ratio": (total + adapt_s + judging_s) / again,
            }
        )
    print(report(table))
    if args.json:
        content = {"table": table, "steps": whole.steps, "readings": whole.readings, "verdict": told(found)}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def report(table: list[dict[str, float]]) -> str:
    """The table, CPU seconds and ratios."""
    head = (
        "| rows to keep | retraining | unlearning: once | its steps | its readings | verdict | request / retraining |"
    )
    names = ("retraining", "once", "steps", "readings", "verdict")
    lines = [head, "|---|---|---|---|---|---|---|"]
    for row in table:
        seconds = " | ".join(f"{row[name]:,.0f}" for name in names)
        lines.append(f"| {row['rows']:,} | {seconds} | {row['ratio']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
