"""UNDIAL: distil from the reference with the answer's logits lowered (Dong et al. 2024, arXiv 2402.10052)."""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from sau.models.outputs import Outputs, forward
from sau.unlearn.objectives.base import Objective, Setting


def undial_loss(logits_NV: Tensor, reference_NV: Tensor, targets_N: Tensor, beta: float) -> Tensor:
    """CE(softmax(z_ref - beta * onehot(y)), softmax(z)) [N]."""
    lowered_NV = reference_NV.scatter_add(1, targets_N[:, None], reference_NV.new_full((len(targets_N), 1), -beta))
    return -(lowered_NV.softmax(1) * logits_NV.log_softmax(1)).sum(1)


class Undial(Objective):
    """Bounded: the target is a distribution the model can reach."""

    name: Literal["undial"] = "undial"
    beta: float = Field(10.0, gt=0, le=1000)

    def start(self, setting: Setting) -> Any:
        return setting.frozen_model()

    def forget_loss(self, forget: Outputs, state: Any) -> Tensor:
        with torch.no_grad():
            reference = forward(state, forget.batch, forget.rows_B)
        return forget.mean(undial_loss(forget.logits_NV, reference.logits_NV, forget.targets_N, self.beta))
