"""Compensated redistribution: the survivors' step that changes the layer's output as the dense step would have.

Our own reading of arXiv 2602.00577, with the least-squares idea of SparseGPT applied to the step.
Shape suffixes: O output features, I input features, S survivors of one matrix.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from sau.training.optimizer import Survivors
from sau.unlearn.redistribution.least_squares import InputAware, solve_on_survivors, with_length_of


class Compensated(InputAware):
    """Minimises || (D - U) X ||^2 over steps D that are zero where pruned, in every output row.

    X are the layer's inputs on `num_rows` retain rows before unlearning, H = X X^T plus `damping` of its mean
    diagonal, and U is the step without a mask: AdamW's on survivors, and on pruned weights -r * G with the row's own
    rate r = ||step_S|| / ||G_S||, since AdamW has no state there. The minimum is
    D_S = U_S + (H_SS)^-1 (H U_P)_S, by `num_iterations` of conjugate gradients.

    With `normalise` each row's step keeps AdamW's length: only its direction changes.
    Cost: one I x I matrix per layer held, and per step num_iterations products of O x I with I x I, as much as a
    forward pass over num_iterations * I tokens. Dear on CPU beyond small models.
    """

    name: Literal["compensated"] = "compensated"
    num_iterations: int = Field(8, ge=1, le=10_000)
    normalise: bool = False

    def redistribute(self, layer: Survivors, step_S: Tensor, state: Any) -> Tensor:
        hessian_II = state[layer.name]
        step_OI = layer.scatter(step_S)
        kept_norm_O = layer.gradient_OI.masked_fill(~layer.kept_OI, 0.0).norm(dim=1, keepdim=True)
        step_norm_O = step_OI.norm(dim=1, keepdim=True)
        rate_O = torch.where(kept_norm_O > 0, step_norm_O / kept_norm_O, 0.0)
        lost_OI = (-rate_O * layer.gradient_OI).masked_fill(layer.kept_OI, 0.0)
        taken_OI = step_OI + solve_on_survivors(lost_OI @ hessian_II, hessian_II, layer.kept_OI, self.num_iterations)
        return layer.gather(with_length_of(step_OI, taken_OI) if self.normalise else taken_OI)
