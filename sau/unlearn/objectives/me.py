"""Maximum entropy: forget rows end in the uniform distribution (Yuan et al. 2024, arXiv 2410.08109)."""

import math
from typing import Any, Literal

from torch import Tensor

from sau.models.outputs import Outputs
from sau.unlearn.objectives.base import Objective


def kl_from_uniform(logits_NV: Tensor) -> Tensor:
    """KL(Uniform || p) [N] = -log V - mean_v log p_v; 0 only where p is uniform."""
    return -math.log(logits_NV.shape[1]) - logits_NV.log_softmax(1).mean(1)


class MaximumEntropy(Objective):
    """Bounded below by 0; NLL/n on retain rows."""

    name: Literal["me"] = "me"

    def forget_loss(self, forget: Outputs, state: Any) -> Tensor:
        return forget.mean(kl_from_uniform(forget.logits_NV))
