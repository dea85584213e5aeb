"""Who wins: the best of each side, and the ratios of their distances."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sau.benchmark.spec import side


def compare(cells: Sequence[Mapping[str, Any]], shipped: tuple[str, str]) -> dict[str, list[dict[str, Any]]]:
    """The best of SAU, of mask-only and of the rivals per (pruner, sparsity, order), and the ratios of their distances.

    The best setup (objective, redistribution) of a side has the smallest distance_to_retrain, mean over seeds. For
    the ratio of a seed, each side's setup is chosen on the OTHER seeds, so that a side with more methods to choose
    from gains nothing by luck; with one seed it is chosen on that seed. A ratio below 1 is in favour of SAU.

    Args:
        cells: of any places and seeds.
        shipped: the setup that the product has as its default. Nothing is chosen on its side.

    Returns:
        `sau`, `mask_only`, `rival`: the best setup with the mean, smallest and largest distance over seeds;
        `ratio`: the geometric mean over seeds, with the smallest and largest, of SAU over rival (`ratio`), SAU over
        mask-only (`ratio_to_mask_only`), the shipped setup over the rival (`shipped_ratio`) and over mask-only with the
        same objective, which differs in the redistribution alone (`shipped_ratio_to_mask_only`). Missing where a side
        has no cells.
    """
    result: dict[str, list[dict[str, Any]]] = {"sau": [], "mask_only": [], "rival": [], "ratio": []}
    for place in dict.fromkeys((c["pruner"], c["sparsity"], c["order"]) for c in cells if c["sparsity"] != 0):
        where = dict(zip(("pruner", "sparsity", "order"), place, strict=True))
        here = [c for c in cells if all(c[key] == value for key, value in where.items())]
        sides = {name: [c for c in here if side(c["redistribution"]) == name] for name in ("sau", "mask-only", "rival")}
        for name, its_cells in sides.items():
            if its_cells:
                result[name.replace("-", "_")].append(where | _best(its_cells))
        ours = [c for c in sides["sau"] if _setup(c) == shipped]
        plain = [c for c in sides["mask-only"] if c["objective"] == shipped[0]]
        ratios = {
            "ratio": _ratios(sides["sau"], sides["rival"]),
            "ratio_to_mask_only": _ratios(sides["sau"], sides["mask-only"]),
            "shipped_ratio": _ratios(ours, sides["rival"]),
            "shipped_ratio_to_mask_only": _ratios(ours, plain),
        }
        if ratios["ratio"]:
            row = where | {"held_out": len({c["seed"] for c in here}) > 1}
            for name, found in ratios.items():
                row |= _spread(name, found) if found else {}
            result["ratio"].append(row)
    return result


def _setup(cell: Mapping[str, Any]) -> tuple[str, str]:
    return cell["objective"], cell["redistribution"]


def _mean_distances(cells: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """Setup -> mean distance over its seeds, for setups that have every seed that any has."""
    seeds = {c["seed"] for c in cells}
    by_setup: dict[tuple[str, str], dict[int, float]] = {}
    for c in cells:
        by_setup.setdefault(_setup(c), {})[c["seed"]] = c["distance_to_retrain"]
    return {setup: float(np.mean([*of.values()])) for setup, of in by_setup.items() if of.keys() == seeds}


def _best(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    means = _mean_distances(cells)
    setup = min(means, key=means.__getitem__)
    chosen = [c for c in cells if _setup(c) == setup]
    found = [c["distance_to_retrain"] for c in chosen]
    return {
        "objective": setup[0],
        "redistribution": setup[1],
        "distance_to_retrain": means[setup],
        "lowest": min(found),
        "highest": max(found),
        **{
            name: float(np.mean([c[name] for c in chosen]))
            for name in ("forget_distance", "record_distance", "decoy_place", "utility")
        },
    }


def _ratios(ours: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> list[float]:
    """One ratio of distances per seed that both sides have."""
    both = sorted({c["seed"] for c in ours} & {c["seed"] for c in others})
    return [_held_out(ours, seed) / max(_held_out(others, seed), 1e-6) for seed in both]


def _held_out(cells: Sequence[Mapping[str, Any]], seed: int) -> float:
    """The distance at a seed of the setup that is best on the other seeds."""
    here = {_setup(c): c["distance_to_retrain"] for c in cells if c["seed"] == seed}
    others = [c for c in cells if c["seed"] != seed and _setup(c) in here]
    means = _mean_distances(others) or here
    return here[min(means, key=means.__getitem__)]


def _spread(name: str, ratios: Sequence[float]) -> dict[str, float | list[float]]:
    logs = np.log(np.maximum(ratios, 1e-6))
    return {
        name: float(np.exp(logs.mean())),
        f"{name}_lowest": min(ratios),
        f"{name}_highest": max(ratios),
        f"{name}_per_seed": list(ratios),
    }
