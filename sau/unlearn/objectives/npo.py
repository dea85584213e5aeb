"""Negative preference optimisation (Zhang et al. 2024, arXiv 2404.05868)."""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sau.models.outputs import Outputs
from sau.unlearn.objectives.base import Objective, Setting


def npo_loss(nll_B: Tensor, reference_nll_B: Tensor, beta: float) -> Tensor:
    """-(2/beta) mean_B log sigmoid(beta * (NLL - NLL_ref)), both summed over the answer.

    As beta -> 0 its gradient becomes that of -NLL: gradient ascent. A larger beta brakes sooner on rows that
    are already less likely than under the reference.
    """
    return -2 / beta * F.logsigmoid(beta * (nll_B - reference_nll_B)).mean()


class Npo(Objective):
    """NPO with NLL/n on retain rows.

    The usual code runs the frozen reference model in every step; NLL_ref is a constant per row, taken once here.
    """

    name: Literal["npo"] = "npo"
    beta: float = Field(0.1, gt=0, le=100)

    def start(self, setting: Setting) -> Tensor:
        return setting.reference_nlls(setting.forget)

    def forget_loss(self, forget: Outputs, state: Tensor) -> Tensor:
        return npo_loss(forget.nll_B, state[forget.rows_B], self.beta)
