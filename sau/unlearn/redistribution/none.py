"""No redistribution: gradient masking alone. The baseline that every other method has to beat at equal tuning."""

from typing import Any, Literal

from torch import Tensor

from sau.training.optimizer import Survivors
from sau.unlearn.redistribution.base import Redistribution


class NoRedistribution(Redistribution):
    """The survivors take the step AdamW made for them; what was asked of pruned weights is lost."""

    reads_gradient = False
    name: Literal["none"] = "none"

    def redistribute(self, layer: Survivors, step_S: Tensor, state: Any) -> Tensor:
        return step_S
