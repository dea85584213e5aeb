"""One cell of the benchmark: a method with every learning rate, measured as the sparse model it would ship."""

import copy
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sau.benchmark.distance import (
    Decoys,
    Reading,
    Target,
    TokenLogps,
    decoys,
    distances,
    goal_gap,
    mean_target,
    measure,
    rank,
    read,
)
from sau.benchmark.references import adapted_base, calibration, encoded, known, load_rows, prune_params, reference
from sau.benchmark.spec import MASK_ONLY, NEW_MASK, NOWHERE, Cell, Sparsity, Spec
from sau.config import checked
from sau.data.sets import Sets
from sau.errors import DivergedError
from sau.mask import apply_mask
from sau.models.batches import Encoded
from sau.models.language_model import LanguageModel, seeded
from sau.pruners import prune
from sau.training.finetune import finetune, num_steps
from sau.training.session import History
from sau.unlearn.unlearn import unlearn


@dataclass(frozen=True)
class _Condition:
    """What all cells at one condition of the grid with one seed share; read only."""

    rows: Sets
    sparse: LanguageModel
    base: LanguageModel
    sets: Mapping[str, list[Encoded]]
    decoys: Decoys
    base_logps: TokenLogps
    before: Reading
    target: Target


@lru_cache(maxsize=1)  # a process takes the cells of a condition one after the other
def condition_of(spec_json: str, data: str, pruner: str, sparsity: Sparsity, seed: int, folder: Path) -> _Condition:
    """What the cells at one condition share, of the models that `prepare` left in `folder`: made once, then kept."""
    spec = Spec.model_validate_json(spec_json)  # whose own dictionaries cannot be hashed
    rows = load_rows(spec, data, seed)
    readings, ranks = known(folder, spec, rows, pruner, sparsity, seed)
    sparse = reference(folder, "original", spec, rows, pruner, sparsity, seed)
    base, sets = adapted_base(folder, spec.params.model), encoded(sparse, rows)
    return _Condition(
        rows=rows,
        sparse=sparse,
        base=base,
        sets=sets,
        decoys=decoys(sparse, rows, seed),
        base_logps=read(base, sets),
        before=readings["original"],
        target=mean_target(readings, ranks),
    )


def run_cell(spec: Spec, data: str, cell: Cell, folder: Path) -> dict[str, Any]:
    """Run one method with every learning rate, from the models that `prepare` left in `folder`.

    Returns:
        The cell's fields; of the run that `rank` puts first `lr`, `steps` and `seconds` (of unlearning alone), the
        reading and the distances; `at_edge`, whether its learning rate is an end of the list, so that another might
        have been better; `informed`, the same of the run nearest to the retrained models by averages and utility,
        which nobody in production can know; `cell_seconds`, of all runs with measuring; and `runs`, all of them,
        without places among decoys.

    Raises:
        DivergedError: with every learning rate.
    """
    started = time.monotonic()
    runs: list[dict[str, float]] = []
    best: dict[str, tuple[Any, dict[str, float], Reading, LanguageModel]] = {}
    with seeded(cell.seed, spec.params.num_threads):
        at = condition_of(spec.model_dump_json(), data, cell.pruner, cell.sparsity, cell.seed, folder)
        for lr in spec.lrs:
            try:
                shipped, history = run_method(spec, cell, folder, at.rows, at.sparse, at.base, lr)
            except DivergedError:
                continue
            logps = read(shipped, at.sets)
            reading = measure(logps)
            numbers = {"lr": lr, "steps": history.steps, "seconds": history.seconds, **reading.numbers()}
            numbers["goal_gap"] = goal_gap(logps, at.base_logps)
            runs.append(numbers | distances(reading, None, before=at.before, target=at.target))
            orders = {
                "chosen": rank(reading, at.before, numbers["goal_gap"]),
                "informed": runs[-1]["distance_to_retrain"],
            }
            better = (rule for rule, key in orders.items() if rule not in best or key < best[rule][0])
            best.update({rule: (orders[rule], runs[-1], reading, shipped) for rule in better})
        if not runs:
            raise DivergedError(f"cell {cell.id}: diverged with every learning rate")
        # Decoys are many rows to read: of the models that count alone, and once where they are the same.
        models = {run["lr"]: shipped for _, run, _, shipped in best.values()}
        places = {lr: at.decoys.place(shipped) for lr, shipped in models.items()}
    chosen, informed = (
        run
        | distances(reading, places[run["lr"]], before=at.before, target=at.target)
        | {"at_edge": run["lr"] in (min(spec.lrs), max(spec.lrs))}
        for _, run, reading, _ in (best["chosen"], best["informed"])
    )
    return {
        **asdict(cell),
        **chosen,
        "informed": informed,
        "cell_seconds": time.monotonic() - started,
        "runs": runs,
    }


def run_method(
    spec: Spec,
    cell: Cell,
    folder: Path,
    rows: Sets,
    sparse: LanguageModel,
    base: LanguageModel,
    lr: float,
) -> tuple[LanguageModel, History]:
    """One run with one learning rate.

    Args:
        sparse: the sparse model before unlearning.
        base: the base model, adapted.

    Returns:
        The sparse model that would be shipped, and what unlearning did.

    Raises:
        DivergedError: see `unlearn`.
    """
    pruned_last = cell.order == "unlearn-prune"
    masked = cell.redistribution in spec.redistributions
    if pruned_last:
        lm = reference(folder, "original", spec, rows, NOWHERE, 0.0, cell.seed)
    else:
        lm = copy.deepcopy(sparse)
    recovery = spec.params.recover
    params = checked(
        type(spec.params.unlearn),
        spec.params.unlearn.model_dump()
        | spec.objectives[cell.objective]
        | {
            "redistribution": spec.redistributions[cell.redistribution] if masked else MASK_ONLY,
            "order": cell.order if masked else "prune-unlearn",
            "lr": lr,
            # Who sees the mask coming needs no recovery: its steps are steps of unlearning.
            "max_steps": spec.steps + (num_steps(recovery, len(rows.retain)) if masked and pruned_last else 0),
            "stop": None,
            "adapt": None,  # done once for all
        },
        f"objective {cell.objective}",
    )
    lm.mask = sparse.mask if masked else None
    history = unlearn(lm, rows, params, seed=cell.seed, base=base, num_threads=spec.params.num_threads, watch=False)
    if not masked and sparse.mask is not None:
        if cell.redistribution == NEW_MASK:
            prune(lm, calibration(lm, rows, spec), prune_params(spec, cell.pruner, cell.sparsity))
        else:
            apply_mask(lm.model, sparse.mask)
            lm.mask = sparse.mask
        if pruned_last:
            finetune(lm, lm.encode(rows.retain), recovery, seed=cell.seed + 1)
    return lm, history
