"""Membership by Min-K%++ (arXiv 2404.02936): tokens standardised by the model's own next-token distribution.

z_t = (log p(y_t) - E_v~p log p(v)) / std_v~p log p(v)
"""

from typing import Literal

import numpy as np
from pydantic import Field

from sau.verify.evidence.readings import Reading
from sau.verify.metrics.base import Array, MembershipMetric
from sau.verify.metrics.mia_min_k import lowest_mean

_FLOOR = 1e-6


class MiaMinKPlusPlus(MembershipMetric):
    """Score: mean of the lowest k share of the z_t; a spread below 1e-6 nats counts as 1e-6."""

    name: Literal["mia_min_k_pp"] = "mia_min_k_pp"
    k: float = Field(0.2, gt=0, le=1)

    def scores(self, reading: Reading, reference: Reading | None = None) -> Array:
        return np.array(
            [lowest_mean((t.logp_T - t.mean_T) / np.maximum(t.std_T, _FLOOR), self.k) for t in reading.answer]
        )
