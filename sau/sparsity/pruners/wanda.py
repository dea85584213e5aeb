"""Wanda: weights by magnitude times input norm (Sun et al. 2023, arXiv 2306.11695)."""

from typing import Literal

from torch import Tensor

from sau.sparsity.pruners.base import LayerwisePruner, keep_highest


def wanda_score(weight_OI: Tensor, squares_I: Tensor) -> Tensor:
    """abs(W_oi) * ||X_i||_2 [O, I], with squares_I the sum of each input's squares over the calibration tokens."""
    return weight_OI.abs() * squares_I.sqrt().to(weight_OI.dtype)


class Wanda(LayerwisePruner):
    """Compared within each output row, as in the paper; survivors stay as they are."""

    name: Literal["wanda"] = "wanda"

    def accumulate(self, total: Tensor | None, inputs_NI: Tensor) -> Tensor:
        squares_I = inputs_NI.square().sum(0).double()
        return squares_I if total is None else total + squares_I

    def prune_layer(self, weight_OI: Tensor, total: Tensor, *, structure: str, sparsity: float) -> Tensor:
        kept_OI = keep_highest(wanda_score(weight_OI, total), structure=structure, sparsity=sparsity)
        weight_OI.masked_fill_(~kept_OI, 0.0)
        return kept_OI
