"""CE-U: cross entropy to the model's own distribution without the answer token (Yang 2025, arXiv 2503.01224)."""

from typing import Any, ClassVar, Literal

from torch import Tensor

from sau.models.outputs import Outputs
from sau.unlearn.objectives.base import Objective


def ce_u_loss(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """CE(softmax(sg[z] with z_y = -inf), softmax(z)) [N]."""
    others_NV = logits_NV.detach().scatter(1, targets_N[:, None], float("-inf"))
    return -(others_NV.softmax(1) * logits_NV.log_softmax(1)).sum(1)


class CeU(Objective):
    """Only the answer token loses; what the others gain is in proportion to what they have. No retain term."""

    name: Literal["ce_u"] = "ce_u"
    has_retain_term: ClassVar[bool] = False

    def forget_loss(self, forget: Outputs, state: Any) -> Tensor:
        return forget.mean(ce_u_loss(forget.logits_NV, forget.targets_N))
