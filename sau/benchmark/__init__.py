"""The benchmark of Sparsity-Aware Unlearning against its rivals: the grid, its cells, and distances to retraining.

A cell is one method at one place of the grid with one seed. All methods of a place start from the same model, see the
same rows in the same order, and have the same budget: every learning rate of one list, looked at after the same
steps. Each look turns a copy of the model into the SPARSE model that would be shipped and measures that. The cell's
result is the look that a user would choose, who has no retrained model: stopping and learning rate are chosen alike for
everyone, by the same rows. What the choice would be with the retrained model in hand is kept beside it (`informed`).

Orders
    prune-unlearn   start: the sparse model in production (trained, pruned, recovered).
    unlearn-prune   start: the dense model; it is pruned after unlearning and then recovered on the retain rows.
Methods
    none, importance, ...   updates of survivors only, with or without redistribution. In unlearn-prune the future
                            mask is known in advance: survivors move, the other weights take part unmoved until they go.
    unmasked-same-mask      every weight moves; then the same mask is laid on.
    unmasked-new-mask       every weight moves; then the model is pruned anew.
    dense                   sparsity 0: ordinary unlearning, never pruned.
Reference: the retrained model goes the same way (train, prune, recover) without the forget rows. Two of them, with rows
in different orders, are averaged: where one retraining ends is partly luck.
"""

from sau.benchmark.cell import run_cell, trajectory
from sau.benchmark.compare import compare
from sau.benchmark.distance import REFERENCES, UTILITY_FLOOR, Reading, distances, mean_target, measure, rank
from sau.benchmark.models import adapted_base, encoded, load_rows, prepare, reference
from sau.benchmark.report import frontier, markdown
from sau.benchmark.spec import DEMO, Cell, Spec, digest, grid, load_spec, models_digest, side

__all__ = [
    "DEMO",
    "REFERENCES",
    "UTILITY_FLOOR",
    "Cell",
    "Reading",
    "Spec",
    "adapted_base",
    "compare",
    "digest",
    "distances",
    "encoded",
    "frontier",
    "grid",
    "load_rows",
    "load_spec",
    "markdown",
    "mean_target",
    "measure",
    "models_digest",
    "prepare",
    "rank",
    "reference",
    "run_cell",
    "side",
    "trajectory",
]
