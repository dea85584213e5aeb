"""Gradient ascent on the forget rows, with nothing that holds the rest (Jang et al. 2022, arXiv 2210.01504)."""

from typing import Any, ClassVar, Literal

from torch import Tensor

from sau.models.outputs import Outputs
from sau.unlearn.objectives.base import Objective


class GradAscent(Objective):
    """L_forget = -NLL/n. Unbounded: it diverges unless the stop rule ends it."""

    name: Literal["grad_ascent"] = "grad_ascent"
    has_retain_term: ClassVar[bool] = False

    def forget_loss(self, forget: Outputs, state: Any) -> Tensor:
        return -forget.mean_nll
