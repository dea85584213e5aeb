"""Wanda: weights by magnitude times input norm (Sun et al. 2023, arXiv 2306.11695)."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from sau.pruners.base import keep_highest
from sau.pruners.layerwise import LayerwisePruner


def wanda_score(weight_OI: Tensor, squares_I: Tensor) -> Tensor:
    """abs(W_oi) * ||X_i||_2 [O, I], with squares_I the sum of each input's squares over the calibration tokens."""
    return weight_OI.float().abs() * squares_I.sqrt()


class Wanda(LayerwisePruner):
    """Compared within each output row, as in the paper; survivors stay as they are."""

    name: Literal["wanda"] = "wanda"

    def statistic(self, inputs_NI: Iterable[Tensor]) -> Tensor:
        """Sum of squares [I]."""
        return torch.stack([x_NI.square().sum(0).double() for x_NI in inputs_NI]).sum(0)

    def prune_layer(self, weight_OI: Tensor, statistic: Tensor, *, structure: str, sparsity: float) -> Tensor:
        kept_OI = keep_highest(wanda_score(weight_OI, statistic), structure=structure, sparsity=sparsity)
        weight_OI.masked_fill_(~kept_OI, 0.0)
        return kept_OI
