"""The benchmark's table and its picture: Markdown, and the forget-utility frontier as SVG and PNG."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from sau.benchmark.spec import DENSE

_COLOURS = {
    "none": "#7f7f7f",
    "importance": "#1f77b4",
    "compensated": "#2ca02c",
    "natural": "#9467bd",
    "unmasked-same-mask": "#d62728",
    "unmasked-new-mask": "#ff7f0e",
}
_REFERENCE_COLUMNS = (
    "forget_prob",
    "retain_prob",
    "holdout_prob",
    "auc",
    "decoy_place",
    "record_distance",
    "distance_to_retrain",
)


def markdown(result: Mapping[str, Any]) -> str:
    """The result as a page: who is nearer to retraining, every method's distance, the references, the budget."""
    lines = [
        f"# SAU benchmark, {result['size']}",
        "",
        f"`{result['command']}`, cells run at commit {', '.join(result['cell_commits'])}, {result['hardware']}.",
        f"{result['budget']['text']}",
        "",
        "## Ratio of distances to retraining (below 1: SAU is nearer)",
        "",
        "Learning rate chosen as a user would, without the retrained model:",
        "",
        *_ratios(result["ratio"]),
        "",
        "Chosen with the retrained model in hand, by averages and utility:",
        "",
        *_ratios(result["informed"]),
        "",
        "## The best of each side",
        "",
        *_table(
            [
                "pruner",
                "sparsity",
                "order",
                "side",
                "objective",
                "method",
                "distance",
                "over seeds",
                "forget",
                "rows",
                "decoy place",
                "utility",
            ],
            (
                [
                    *_condition(row),
                    name.replace("_", " "),
                    row["objective"],
                    row["redistribution"],
                    f"{row['distance_to_retrain']:.3f}",
                    f"{row['lowest']:.3f} to {row['highest']:.3f}",
                    *(f"{row[key]:.3f}" for key in ("forget_distance", "record_distance", "decoy_place", "utility")),
                ]
                for condition in dict.fromkeys(tuple(_condition(row)) for row in result["sau"] + result["rival"])
                for name in ("sau", "mask_only", "rival")
                for row in result[name]
                if tuple(_condition(row)) == condition
            ),
        ),
        "",
        "## Every method: distance to retraining, mean over seeds (decoy place, utility)",
        "",
        *_methods(result["cells"]),
        "",
        "## References, mean over seeds",
        "",
        *_table(
            ["pruner", "sparsity", "model", *(name.replace("_", " ") for name in _REFERENCE_COLUMNS)],
            (
                [
                    pruner,
                    sparsity,
                    name,
                    *(f"{np.mean([row[key] for row in rows]):.3f}" for key in _REFERENCE_COLUMNS),
                ]
                for (pruner, sparsity, name), rows in _grouped(
                    result["references"], ("pruner", "sparsity", "reference")
                ).items()
            ),
        ),
        "",
    ]
    return "\n".join(lines)


def _ratios(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """A row for each condition; every ratio with its smallest and largest over seeds."""

    def words(row: Mapping[str, Any], name: str) -> str:
        if name not in row:
            return ""
        return f"{row[name]:.2f} ({row[f'{name}_lowest']:.2f} to {row[f'{name}_highest']:.2f})"

    heads = {
        "ratio": "SAU / rival",
        "held_out_ratio": "chosen on the other seeds",
        "ratio_to_mask_only": "SAU / mask only",
        "shipped_ratio": "as shipped / rival",
        "shipped_ratio_to_mask_only": "as shipped / the same, mask only",
    }
    return _table(
        ["pruner", "sparsity", "order", *heads.values()],
        ([*_condition(row), *(words(row, name) for name in heads)] for row in rows),
    )


def _condition(row: Mapping[str, Any]) -> list[str]:
    return [row["pruner"], str(row["sparsity"]), row["order"]]


def _methods(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    objectives = list(dict.fromkeys(c["objective"] for c in cells))
    rows = []
    for (*condition, method), cells_here in _grouped(cells, ("pruner", "sparsity", "order", "redistribution")).items():
        found = []
        for objective in objectives:
            chosen = [c for c in cells_here if c["objective"] == objective]
            distance, rank, utility = (
                np.mean([c[key] for c in chosen]) if chosen else np.nan
                for key in ("distance_to_retrain", "decoy_place", "utility")
            )
            found.append(f"{distance:.3f} ({rank:.2f}, {utility:.2f})" if chosen else "")
        seconds = np.mean([c["seconds"] / c["steps"] for c in cells_here])
        edge = np.mean([c["at_edge"] for c in cells_here])
        rows.append([*condition, method, *found, f"{seconds:.3g}", f"{edge:.0%}"])
    head = ["pruner", "sparsity", "order", "method", *objectives, "seconds per step", "best at the budget's edge"]
    return _table(head, rows)


def _grouped(rows: Iterable[Mapping[str, Any]], keys: Sequence[str]) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    return [f"| {' | '.join(map(str, cells))} |" for cells in (head, ["---"] * len(head), *rows)]


def frontier(cells: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]], target: Path) -> list[Path]:
    """Draw `target`.svg and `target`.png: one panel per condition, one line per method through the runs no other run of
    that method beats on both forget distance by averages (down) and utility (up), over all objectives, rates and seeds.

    Args:
        cells: with their `runs`.
        references: the retrained model's own utility is drawn as a star at forget distance 0.
    """
    conditions = _grouped([c for c in cells if c["redistribution"] != DENSE], ("pruner", "order", "sparsity"))
    if not conditions:
        return []
    columns = min(len(conditions), 3)
    num_rows = -(-len(conditions) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.2 * num_rows + 0.6), layout="constrained")
    panels = list(figure.subplots(num_rows, columns, squeeze=False).flat)
    for panel in panels[len(conditions) :]:
        panel.set_axis_off()
    for panel, ((pruner, order, sparsity), cells_here) in zip(panels, conditions.items(), strict=False):
        for number, (method, cells_of) in enumerate(_grouped(cells_here, ("redistribution",)).items()):
            points = undominated([(p["average_distance"], p["utility"]) for c in cells_of for p in c["runs"]])
            colour = _COLOURS.get(method[0], f"C{number}")
            panel.plot(*zip(*points, strict=True), marker="o", markersize=3, label=method[0], color=colour)
        retrained = [
            r["utility"]
            for r in references
            if (r["pruner"], r["sparsity"], r["reference"]) == (pruner, sparsity, "retrained")
        ]
        panel.plot([0], [np.mean(retrained)], marker="*", markersize=12, color="black", linestyle="", label="retrained")
        panel.set_title(f"{pruner} {sparsity}, {order}", fontsize=9)
        panel.set_xlabel("forget distance, averages only", fontsize=8)
        panel.set_ylabel("utility", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.3)
    handles: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    ncols = 4 if columns > 1 else 2  # as many names as a figure of one panel has room for
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=ncols, fontsize=8, frameon=False
    )
    paths = [target.with_name(f"{target.name}{suffix}") for suffix in (".svg", ".png")]
    # A fixed salt and no date: the same numbers give the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "sau", "svg.fonttype": "none"}):
        for path in paths:
            figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def undominated(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (x, y), in order of x, that no other point beats with a smaller x and a larger y."""
    kept: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or y > kept[-1][1]:
            kept.append((x, y))
    return kept
