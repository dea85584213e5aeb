"""Membership by gradient norm (arXiv 1812.00910): training data has been descended to a small gradient."""

from typing import ClassVar, Literal

from sau.errors import DataError
from sau.verify.evidence.readings import Part, Reading
from sau.verify.metrics.base import Array, MembershipMetric


class MiaGradnorm(MembershipMetric):
    """Score: minus the L2 norm of the gradient of the mean answer loss over all parameters."""

    name: Literal["mia_gradnorm"] = "mia_gradnorm"
    needs: ClassVar[frozenset[Part]] = frozenset({"gradient"})

    def scores(self, reading: Reading, reference: Reading | None = None) -> Array:
        if reading.gradient is None:
            raise DataError("metric 'mia_gradnorm': the reading holds no gradients")
        return -reading.gradient
