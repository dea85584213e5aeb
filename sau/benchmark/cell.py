"""One cell of the benchmark: a method with every learning rate, measured as the sparse model it would ship."""

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sau.benchmark.distance import Reading, decoys, distances, mean_target, measure, rank
from sau.benchmark.models import adapted_base, calibration, encoded, known, load_rows, prune_params, reference
from sau.benchmark.spec import MASK_ONLY, NEW_MASK, NOWHERE, Cell, Spec
from sau.data.records import Row
from sau.errors import DivergedError
from sau.models import LanguageModel, seeded
from sau.registry import checked
from sau.sparsity.mask import apply_mask, future_mask
from sau.sparsity.pruners import prune
from sau.text import Encoded
from sau.unlearn.loop import finetune, unlearn


def run_cell(spec: Spec, data: str, cell: Cell, folder: Path) -> dict[str, Any]:
    """Run one method with every learning rate, from the models that `prepare` left in `folder`.

    Returns:
        The cell's fields; of the look that `rank` puts first `lr`, `steps`, the reading, the distances and
        `seconds` (of training alone up to it); `at_edge`, whether the learning rate
        is an end of the list or the steps are the last, so that more budget might have helped; `informed`, the
        same of the look nearest to the retrained models by averages and utility, which nobody in production can know;
        `cell_seconds`, of all runs with measuring; and `looks`, all of them, without places among decoys.

    Raises:
        DivergedError: with every learning rate, before the first look.
    """
    started = time.monotonic()
    rows = load_rows(spec, data, cell.seed)
    looks: list[dict[str, float]] = []
    best: dict[str, tuple[Any, dict[str, float]]] = {}
    with seeded(cell.seed, spec.params.num_threads):
        readings, ranks = known(folder, spec, rows, cell.pruner, cell.sparsity, cell.seed)
        before, target = readings["original"], mean_target(readings, ranks)
        sparse = reference(folder, "original", spec, rows, cell.pruner, cell.sparsity, cell.seed)
        sets, hidden = encoded(sparse, rows), decoys(sparse, rows, cell.seed)
        for lr in spec.lrs:

            def look(steps: int, seconds: float, reading: Reading, shipped: LanguageModel, lr: float = lr) -> None:
                numbers = {"lr": lr, "steps": steps, "seconds": seconds, **reading.numbers()}
                looks.append(numbers | distances(reading, None, before=before, target=target))
                orders = {"chosen": rank(reading, before), "informed": looks[-1]["distance_to_retrain"]}
                better = [rule for rule, key in orders.items() if rule not in best or key < best[rule][0]]
                if better:
                    found = numbers | distances(reading, hidden.place(shipped), before=before, target=target)
                    found["at_edge"] = lr in (min(spec.lrs), max(spec.lrs)) or steps == spec.looks[-1]
                    best.update({rule: (orders[rule], found) for rule in better})

            trajectory(spec, cell, folder, rows, sets, sparse, lr, look)
    if not looks:
        raise DivergedError(f"cell {cell.id}: diverged before the first look with every learning rate")
    return {
        **asdict(cell),
        **best["chosen"][1],
        "informed": best["informed"][1],
        "cell_seconds": time.monotonic() - started,
        "looks": looks,
    }


def trajectory(
    spec: Spec,
    cell: Cell,
    folder: Path,
    rows: Mapping[str, list[Row]],
    sets: Mapping[str, list[Encoded]],
    sparse: LanguageModel,
    lr: float,
    on_look: Callable[[int, float, Reading, LanguageModel], None],
) -> None:
    """One run with one learning rate.

    Args:
        sparse: the sparse model before unlearning.
        on_look: is told at every look (steps, seconds of training alone, the reading of the sparse model that would be
            shipped, that model, which changes afterwards).
    """
    pruned_last = cell.order == "unlearn-prune"
    masked = cell.redistribution in spec.redistributions
    if pruned_last:
        lm = reference(folder, "original", spec, rows, NOWHERE, 0.0, cell.seed)
    else:
        lm = copy.deepcopy(sparse)
    mask = sparse.mask
    shipped = copy.deepcopy(lm)
    looking = 0.0
    started = time.monotonic()

    def look(step: int, _total: int, _values: dict[str, float]) -> None:
        nonlocal looking
        if step not in spec.looks:
            return
        seconds = time.monotonic() - started - looking
        shipped.model.load_state_dict(lm.model.state_dict())
        shipped.mask = None
        if mask is not None:
            if cell.redistribution == NEW_MASK:
                prune(shipped, calibration(shipped, rows, spec), prune_params(spec, cell.pruner, cell.sparsity))
            else:
                apply_mask(shipped.model, mask)
                shipped.mask = mask
            if pruned_last:
                finetune(shipped, sets["retain"], spec.params.recover, seed=cell.seed + 1)
        on_look(step, seconds, measure(shipped, sets), shipped)
        looking = time.monotonic() - started - seconds

    params = checked(
        type(spec.params.unlearn),
        spec.params.unlearn.model_dump()
        | spec.objectives[cell.objective]
        | {
            "redistribution": spec.redistributions[cell.redistribution] if masked else MASK_ONLY,
            "lr": lr,
            "max_steps": spec.looks[-1],
            "stop": None,
            "adapt": None,  # done once for all
        },
        f"objective {cell.objective}",
    )
    lm.mask = mask if masked else None
    parts = (rows["forget"], rows["retain"], rows["holdout"])
    base = adapted_base(folder, spec.params.model.prompt)
    try:
        with future_mask(lm.model, mask) if masked and pruned_last and mask else nullcontext():
            unlearn(lm, *parts, params, seed=cell.seed, base=base, num_threads=spec.params.num_threads, progress=look)
    except DivergedError:
        pass  # the looks before it count
