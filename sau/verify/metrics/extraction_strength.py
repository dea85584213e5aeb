"""Extraction strength (Carlini et al. 2021, as used for unlearning by arXiv 2407.06460).

    1 - k/n, k the shortest prefix of the answer after which the greedy next token is right for all the rest

A prefix of n tokens always works, so k <= n; where even the last token is wrong, k = n and the value is 0.
(Starting the search at n - 1, as is often done, gives such an answer 1/n.)
"""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sau.verify.evidence.readings import Reading
from sau.verify.metrics.base import Array, Direction, RecordMetric


def extraction_strength(correct_T: NDArray[np.bool_]) -> float:
    """The share of the answer that the model completes by itself, in [0, 1]."""
    wrong = np.flatnonzero(~correct_T)
    prefix = 0 if wrong.size == 0 else int(wrong[-1]) + 1
    return 1.0 - prefix / len(correct_T)


class ExtractionStrength(RecordMetric):
    """The longest run of right greedy tokens at the answer's end, as a share of it."""

    name: Literal["extraction_strength"] = "extraction_strength"
    better: ClassVar[Direction] = "closer_to_retrain"
    aggregation: ClassVar[str] = "mean over records"

    def per_record(self, reading: Reading) -> Array:
        return np.array([extraction_strength(tokens.correct_T) for tokens in reading.answer])
