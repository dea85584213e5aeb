"""The benchmark of Sparsity-Aware Unlearning against its rivals: the grid, its cells, and distances to retraining.

A cell is one method at one place of the grid with one seed. All methods of a place start from the same model, see the
same rows in the same order, and have the same budget: the same number of steps with each learning rate of one list,
falling linearly to 0. What is measured is the SPARSE model that would be shipped. The cell's result is the run that a
user would choose, who has no retrained model: the learning rate is chosen alike for everyone, by the same rows. What
the choice would be with the retrained model in hand is kept beside it (`informed`).

Orders
    prune-unlearn   start: the sparse model in production (trained, pruned, recovered).
    unlearn-prune   start: the dense model; it is pruned after unlearning and then recovered on the retain rows.
Methods
    none, importance, ...   updates of survivors only, with or without redistribution. In unlearn-prune the mask is
                            known in advance: the other weights fade away during unlearning, which goes on for as
                            many steps as the rivals recover.
    unmasked-same-mask      every weight moves; then the same mask is laid on.
    unmasked-new-mask       every weight moves; then the model is pruned anew.
    dense                   sparsity 0: ordinary unlearning, never pruned.
Reference: the retrained model goes the same way (train, prune, recover) without the forget rows. Two of them, with rows
in different orders, are averaged: where one retraining ends is partly luck.
"""

from sau.benchmark.cell import run_cell, run_method
from sau.benchmark.compare import compare
from sau.benchmark.distance import (
    REFERENCES,
    UTILITY_FLOOR,
    Reading,
    distances,
    goal_gap,
    mean_target,
    measure,
    rank,
    read,
)
from sau.benchmark.references import adapted_base, encoded, load_rows, prepare, reference
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
    "goal_gap",
    "grid",
    "load_rows",
    "load_spec",
    "markdown",
    "mean_target",
    "measure",
    "models_digest",
    "prepare",
    "rank",
    "read",
    "reference",
    "run_cell",
    "run_method",
    "side",
]
