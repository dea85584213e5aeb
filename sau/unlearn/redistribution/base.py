"""The interface of a redistribution: it sees gradients that are also defined where weights are pruned, and may
change the survivors' step. AdamW is blind to a rescaled gradient, so redistribution acts on the step."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from sau.models.ranks import ALONE, Ranks
from sau.registry import Component
from sau.training.optimizer import Survivors
from sau.unlearn.objectives.base import Setting

PACKAGE = "sau.unlearn.redistribution"


def project_off(step_S: Tensor, gradient_S: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """The nearest step [S] that does not raise, to first order, the loss whose gradient is `gradient_S`.

    Minimises || D - step ||^2 subject to <D, gradient> <= 0, over all rows where `ranks` have others.
    """
    rise = ranks.total(step_S @ gradient_S)
    square = ranks.total(gradient_S @ gradient_S)
    return step_S - torch.where((rise > 0) & (square > 0), rise / square, 0.0) * gradient_S


class Redistribution(Component, ABC):
    """Gives survivors what the objective asked of pruned weights. Works on one masked matrix at a time.

    The config is frozen; what has to be remembered is the state that `start` returns. With `project`, any method's
    step is projected, matrix by matrix, off the gradient of the step's retain batch.
    """

    reads_gradient: ClassVar[bool] = True
    """Whether `redistribute` reads `layer.gradient_OI`: then it is refused where it is not finite, which the optimizer
    checks at survivors only."""

    project: bool = False

    def start(self, layers: Sequence[Survivors], setting: Setting) -> Any:
        """The state, made once before the first step."""
        return None

    def observe(self, layer: Survivors, state: Any) -> None:
        """Called after the backward pass of the forget term: `layer.gradient_OI` is its gradient alone."""

    @abstractmethod
    def redistribute(self, layer: Survivors, step_S: Tensor, state: Any) -> Tensor:
        """The step [S] to take instead of `step_S`; `layer.gradient_OI` is now the whole loss's.

        Called when dense parameters have moved already: what it has to refuse, `observe` refuses.
        """
