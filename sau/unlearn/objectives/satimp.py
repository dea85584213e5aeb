"""SatImp: ascent weighted by saturation and importance of each token (Yang et al. 2025, arXiv 2505.11953)."""

from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from sau.models.outputs import Outputs
from sau.unlearn.objectives.base import Objective


def satimp_loss(logp_N: Tensor, beta1: float, beta2: float) -> Tensor:
    """-sg[p^beta1 * (1 - p)^beta2] * NLL [N]."""
    p_N = logp_N.detach().exp()
    return p_N.pow(beta1) * (1 - p_N).clamp_min(0).pow(beta2) * logp_N


class SatImp(Objective):
    """Neither tokens already forgotten nor those given by grammar alone (p near 1) are pushed hard."""

    name: Literal["satimp"] = "satimp"
    beta1: float = Field(5.0, ge=0, le=100)
    beta2: float = Field(1.0, ge=0, le=100)

    def forget_loss(self, forget: Outputs, state: Any) -> Tensor:
        return forget.mean(satimp_loss(forget.logp_N, self.beta1, self.beta2))
