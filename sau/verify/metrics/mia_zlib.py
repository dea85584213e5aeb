"""Membership by loss over zlib entropy (Carlini et al., arXiv 2012.07805): likely for a text that compresses badly."""

from typing import Literal

from sau.verify.evidence.readings import Reading
from sau.verify.metrics.base import Array, MembershipMetric, token_means


class MiaZlib(MembershipMetric):
    """Score: mean log-probability per answer token, divided by the row's compressed size in bytes."""

    name: Literal["mia_zlib"] = "mia_zlib"

    def scores(self, reading: Reading, reference: Reading | None = None) -> Array:
        return token_means(reading) / reading.zlib_bytes
