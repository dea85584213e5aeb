"""Exact memorization (arXiv 2205.10770): the share of answer tokens that are the model's most likely token."""

from typing import ClassVar, Literal

import numpy as np

from sau.verify.evidence.readings import Reading
from sau.verify.metrics.base import Array, Direction, RecordMetric


class ExactMemorization(RecordMetric):
    """Teacher-forced token accuracy, in [0, 1]."""

    name: Literal["exact_memorization"] = "exact_memorization"
    better: ClassVar[Direction] = "closer_to_retrain"
    aggregation: ClassVar[str] = "mean over records"

    def per_record(self, reading: Reading) -> Array:
        return np.array([tokens.correct_T.mean() for tokens in reading.answer])
