"""How likely a model finds whole answers, as numbers of NumPy's: per token, or of the answer as a whole.

Shape suffix: N sequences.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sau.models.batches import Encoded
from sau.models.language_model import LanguageModel
from sau.models.scoring import answer_logps

Array = NDArray[np.float64]


def mean_logps(lm: LanguageModel, encoded: Sequence[Encoded], *, batch_size: int = 64) -> Array:
    """Mean answer log-probability per token of each sequence [N]."""
    return np.array([scores.mean() for scores in _logps(lm, encoded, batch_size)])


def sum_logps(lm: LanguageModel, encoded: Sequence[Encoded], *, batch_size: int = 64) -> Array:
    """Log-probability of each sequence's whole answer [N]."""
    return np.array([scores.sum() for scores in _logps(lm, encoded, batch_size)])


def _logps(lm: LanguageModel, encoded: Sequence[Encoded], batch_size: int) -> list[Array]:
    return [logp.double().numpy() for logp in answer_logps(lm.model, encoded, batch_size=batch_size)]
