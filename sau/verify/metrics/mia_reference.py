"""Membership against a reference model (Carlini et al., arXiv 2012.07805): likelier than to one that never saw it."""

from typing import ClassVar, Literal

from sau.errors import DataError
from sau.verify.evidence.readings import Reading
from sau.verify.metrics.base import Array, MembershipMetric, token_means


class MiaReference(MembershipMetric):
    """Score: mean log-probability per answer token, minus the reference model's on the same row."""

    name: Literal["mia_reference"] = "mia_reference"
    against_reference: ClassVar[bool] = True

    def scores(self, reading: Reading, reference: Reading | None = None) -> Array:
        if reference is None:
            raise DataError("metric 'mia_reference': a reference model's reading is needed")
        return token_means(reading) - token_means(reference)
