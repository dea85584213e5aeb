"""SimNPO: NPO without a reference model (Fan et al. 2024, arXiv 2410.07163)."""

from typing import Any, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sau.models.outputs import Outputs
from sau.unlearn.objectives.base import Objective


def simnpo_loss(mean_nll_B: Tensor, beta: float, delta: float) -> Tensor:
    """-(2/beta) mean_B log sigmoid(beta * (NLL/n - delta)): per token, so long answers are not pushed harder."""
    return -2 / beta * F.logsigmoid(beta * (mean_nll_B - delta)).mean()


class SimNpo(Objective):
    """The paper weights the forget term with gamma 0.125."""

    name: Literal["simnpo"] = "simnpo"
    beta: float = Field(4.5, gt=0, le=100)
    delta: float = Field(0.0, ge=0, le=100)

    def forget_loss(self, forget: Outputs, state: Any) -> Tensor:
        return simnpo_loss(forget.nll_B / forget.num_tokens_B, self.beta, self.delta)
