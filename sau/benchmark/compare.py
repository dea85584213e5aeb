"""Who wins: the best of each side, and the ratios of their distances."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sau.benchmark.spec import side


def compare(cells: Sequence[Mapping[str, Any]], shipped: tuple[str, str]) -> dict[str, list[dict[str, Any]]]:
    """The best of SAU, of mask-only and of the rivals per (pruner, sparsity, order), and the ratios of their distances.

    The best setup (objective, redistribution) of a side has the smallest distance_to_retrain, mean over seeds. A ratio
    is one per seed and the geometric mean of them, with the smallest and largest; below 1 it is in favour of SAU.

    Args:
        cells: of any conditions and seeds.
        shipped: the setup that the product has as its default. Nothing is chosen on its side.

    Returns:
        `sau`, `mask_only`, `rival`: the best setup with the mean, smallest and largest distance over seeds;
        `ratio`: of the best SAU over the best rival (`ratio`) and over the best mask-only (`ratio_to_mask_only`); of
        the shipped setup over the best rival (`shipped_ratio`) and over mask-only with the same objective, which
        differs in the redistribution alone (`shipped_ratio_to_mask_only`); and of SAU over rival where the setups that
        count at a seed are those that are best on the OTHER seeds (`held_out_ratio`), so that neither side gains by the
        luck of the seeds it was chosen on. Only where there is a rival; the last one only with several seeds.
    """
    result: dict[str, list[dict[str, Any]]] = {"sau": [], "mask_only": [], "rival": [], "ratio": []}
    for condition in dict.fromkeys((c["pruner"], c["sparsity"], c["order"]) for c in cells if c["sparsity"] != 0):
        where = dict(zip(("pruner", "sparsity", "order"), condition, strict=True))
        here = [c for c in cells if all(c[key] == value for key, value in where.items())]
        sides = {name: [c for c in here if side(c["redistribution"]) == name] for name in ("sau", "mask-only", "rival")}
        best = {name: _best(cells_here) for name, cells_here in sides.items() if cells_here}
        for name, chosen in best.items():
            result[name.replace("-", "_")].append(where | _summary(chosen))
        sau, mask_only, rival = (best.get(name, []) for name in sides)
        shipped_cells = [c for c in sides["sau"] if _setup(c) == shipped]
        plain = [c for c in sides["mask-only"] if c["objective"] == shipped[0]]
        seeds = {c["seed"] for c in here}
        held_out = {
            name: [c for seed in seeds for c in _held_out(sides[name], seed)] if len(seeds) > 1 else []
            for name in ("sau", "rival")
        }
        ratios = {
            "ratio": _ratios(sau, rival),
            "ratio_to_mask_only": _ratios(sau, mask_only),
            "held_out_ratio": _ratios(held_out["sau"], held_out["rival"]),
            "shipped_ratio": _ratios(shipped_cells, rival),
            "shipped_ratio_to_mask_only": _ratios(shipped_cells, plain),
        }
        if ratios["ratio"]:
            result["ratio"].append(
                where
                | {k: v for name, over_seeds in ratios.items() if over_seeds for k, v in _spread(name, over_seeds)}
            )
    return result


def _setup(cell: Mapping[str, Any]) -> tuple[str, str]:
    return cell["objective"], cell["redistribution"]


def _mean_distances(cells: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """Setup -> mean distance over its seeds, for the setups that have the most seeds."""
    by_setup: dict[tuple[str, str], list[float]] = {}
    for c in cells:
        by_setup.setdefault(_setup(c), []).append(c["distance_to_retrain"])
    most = max(map(len, by_setup.values()))
    return {setup: float(np.mean(values)) for setup, values in by_setup.items() if len(values) == most}


def _best(cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The cells of the setup with the smallest mean distance."""
    means = _mean_distances(cells)
    setup = min(means, key=means.__getitem__)
    return [c for c in cells if _setup(c) == setup]


def _summary(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of one setup's cells: its name, and means over seeds."""
    found = [c["distance_to_retrain"] for c in cells]
    names = ("distance_to_retrain", "forget_distance", "record_distance", "decoy_place", "utility")
    return {
        "objective": cells[0]["objective"],
        "redistribution": cells[0]["redistribution"],
        "lowest": min(found),
        "highest": max(found),
        **{name: float(np.mean([c[name] for c in cells])) for name in names},
    }


def _held_out(cells: Sequence[Mapping[str, Any]], seed: int) -> list[Mapping[str, Any]]:
    """The cell at a seed of the setup that is best on the other seeds; none where the two have no setup in common."""
    here = {_setup(c): c for c in cells if c["seed"] == seed}
    others = [c for c in cells if c["seed"] != seed and _setup(c) in here]
    return [here[_setup(_best(others)[0])]] if others else []


def _ratios(ours: Iterable[Mapping[str, Any]], others: Iterable[Mapping[str, Any]]) -> list[float]:
    """One ratio of distances per seed that both have, in order of seeds."""
    our, other = ({c["seed"]: c["distance_to_retrain"] for c in cells} for cells in (ours, others))
    return [our[seed] / max(other[seed], 1e-6) for seed in sorted(our.keys() & other.keys())]


def _spread(name: str, ratios: Sequence[float]) -> Iterator[tuple[str, float | list[float]]]:
    yield name, float(np.exp(np.log(np.maximum(ratios, 1e-6)).mean()))
    yield f"{name}_lowest", min(ratios)
    yield f"{name}_highest", max(ratios)
    yield f"{name}_per_seed", list(ratios)
