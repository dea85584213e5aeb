"""Membership by loss (Yeom et al., arXiv 1709.01604)."""

from typing import Literal

from sau.verify.evidence.readings import Reading
from sau.verify.metrics.base import Array, MembershipMetric, token_means


class MiaLoss(MembershipMetric):
    """Score: mean log-probability per answer token."""

    name: Literal["mia_loss"] = "mia_loss"

    def scores(self, reading: Reading, reference: Reading | None = None) -> Array:
        return token_means(reading)
