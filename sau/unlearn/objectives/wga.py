"""WGA: gradient ascent weighted by confidence (Wang et al. 2025, arXiv 2502.19301)."""

from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from sau.models.outputs import Outputs
from sau.unlearn.objectives.base import Objective


def wga_loss(logp_N: Tensor, beta: float) -> Tensor:
    """-sg[p]^beta * NLL [N]: a token already unlikely is no longer pushed."""
    return (beta * logp_N.detach()).exp() * logp_N


class Wga(Objective):
    """Weighted gradient ascent with NLL/n on retain rows; beta 0 is gradient difference."""

    name: Literal["wga"] = "wga"
    beta: float = Field(1.0, ge=0, le=100)

    def forget_loss(self, forget: Outputs, state: Any) -> Tensor:
        return forget.mean(wga_loss(forget.logp_N, self.beta))
