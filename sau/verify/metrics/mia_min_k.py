"""Membership by Min-K% (arXiv 2310.16789): a record seen in training has no very unlikely tokens."""

import math
from typing import Literal

import numpy as np
from pydantic import Field

from sau.verify.evidence.readings import Reading
from sau.verify.metrics.base import Array, MembershipMetric


def lowest_mean(values_T: Array, share: float) -> float:
    """Mean of the lowest `share` of the values, at least one of them."""
    count = max(1, math.floor(share * len(values_T)))
    return float(np.sort(values_T)[:count].mean())


class MiaMinK(MembershipMetric):
    """Score: mean of the lowest k share of the token log-probabilities."""

    name: Literal["mia_min_k"] = "mia_min_k"
    k: float = Field(0.2, gt=0, le=1)

    def scores(self, reading: Reading, reference: Reading | None = None) -> Array:
        return np.array([lowest_mean(tokens.logp_T, self.k) for tokens in reading.answer])
