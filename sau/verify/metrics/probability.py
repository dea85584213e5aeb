"""Answer probability, normalised by length (TOFU, arXiv 2401.06121): exp(-NLL_i / n_i)."""

from typing import ClassVar, Literal

import numpy as np

from sau.verify.evidence.readings import Reading
from sau.verify.metrics.base import Array, Direction, RecordMetric, token_means


class Probability(RecordMetric):
    """Geometric mean of the answer's token probabilities, in [0, 1]."""

    name: Literal["probability"] = "probability"
    better: ClassVar[Direction] = "closer_to_retrain"
    aggregation: ClassVar[str] = "mean over records"

    def per_record(self, reading: Reading) -> Array:
        return np.exp(token_means(reading))
