"""Truth ratio (TOFU, arXiv 2401.06121): how likely false answers are against the true one.

    R_i = exp(-mean_j L_false_ij) / exp(-L_true_i),  L the loss per token

The true answer is the one in other words where the row has it. Rows without false answers are not measured.
"""

from typing import ClassVar, Literal

import numpy as np

from sau.errors import DataError
from sau.verify.evidence.readings import Part, Reading
from sau.verify.metrics.base import Array, Direction, RecordMetric


def log_truth_ratios(reading: Reading) -> Array:
    """log R_i of each row with false answers: mean false log-probability minus the true one.

    Raises:
        DataError: the reading was made without false answers.
    """
    if reading.truth is None:
        raise DataError("metric 'truth_ratio': the reading holds no false answers")
    return np.array([logps[1:].mean() - logps[0] for logps in reading.truth])


class TruthRatio(RecordMetric):
    """R per record; aggregated so that higher is better on each set."""

    name: Literal["truth_ratio"] = "truth_ratio"
    better: ClassVar[Direction] = "higher"
    aggregation: ClassVar[str] = "forget: mean of min(R, 1/R); other sets: mean of max(0, 1 - R)"
    needs: ClassVar[frozenset[Part]] = frozenset({"truth_ratio"})

    def per_record(self, reading: Reading) -> Array:
        return np.exp(np.clip(log_truth_ratios(reading), -700, 700))

    def aggregate(self, values: Array, set_name: str) -> float:
        if set_name == "forget":
            return float(np.minimum(values, 1.0 / values).mean())
        return float(np.maximum(0.0, 1.0 - values).mean())
