"""PDU: flat logits on forget rows under a constraint on the retain loss (Entesari et al. 2025, arXiv 2506.05314)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from sau.models.outputs import Outputs
from sau.unlearn.objectives.base import Objective, Setting


def logit_margin(logits_NV: Tensor) -> Tensor:
    """(max_v z_v - mean_v z_v)^2 [N]; 0 only where the logits are flat."""
    return (logits_NV.amax(1) - logits_NV.mean(1)).square()


@dataclass
class _Dual:
    multiplier: float = 1.0
    excess: float = 0.0


class Pdu(Objective):
    """Retain term lambda * (NLL/n - eps); lambda <- max(0, lambda + eta * (NLL/n - eps)) once per optimizer step.

    Args:
        eps: the retain NLL per token that is good enough; has to be chosen, e.g. the model's own before unlearning.
        eta: step of the dual variable, which starts at 1.
    """

    adds_up: ClassVar[tuple[str, ...]] = ("excess",)
    name: Literal["pdu"] = "pdu"
    eps: float = Field(ge=0, le=100)
    eta: float = Field(1.0, ge=0, le=1000)

    def start(self, setting: Setting) -> _Dual:
        return _Dual()

    def forget_loss(self, forget: Outputs, state: _Dual) -> Tensor:
        return forget.mean(logit_margin(forget.logits_NV))

    def retain_loss(self, retain: Outputs, state: _Dual) -> Tensor:
        excess = retain.mean_nll - self.eps
        earlier = state.excess if retain.share < 1 else 0.0  # of a step's other micro-batches
        state.excess = earlier + retain.share * float(excess.detach())
        return state.multiplier * excess

    def after_step(self, state: _Dual) -> None:
        state.multiplier, state.excess = max(0.0, state.multiplier + self.eta * state.excess), 0.0
