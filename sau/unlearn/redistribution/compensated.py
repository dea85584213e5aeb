"""Compensated redistribution: the survivors' step that changes the layer's output as the dense step would have.

Our own reading of arXiv 2602.00577, with the least-squares idea of SparseGPT applied to the step.
Shape suffixes: O output features, I input features, S survivors of one matrix, B sequences, T tokens.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from sau.sparsity.pruners.base import observing
from sau.text import by_length, collate
from sau.unlearn.objectives.base import Setting
from sau.unlearn.optimizer import Survivors
from sau.unlearn.redistribution.base import Redistribution


def solve_on_survivors(target_OI: Tensor, hessian_II: Tensor, kept_OI: Tensor, num_iterations: int) -> Tensor:
    """Z [O, I], zero where pruned, with (Z H)_S = target_S in every row: (H_SS)^-1 target_S.

    Each row has other survivors, so each is another system. Conjugate gradients solve all rows at once with one
    product [O, I] x [I, I] per iteration (Jacobi preconditioner); factoring H_SS per row would cost I^3 each.
    """
    # Multiplying by a float mask is ten times cheaper than masked_fill, and every number here is finite.
    kept = kept_OI.to(target_OI.dtype)
    inverse_diagonal_I = hessian_II.diagonal().reciprocal()
    solution = torch.zeros_like(target_OI)
    residual = target_OI * kept
    preconditioned = residual * inverse_diagonal_I
    direction = preconditioned
    energy_O = (residual * preconditioned).sum(1, keepdim=True)
    tiny = torch.finfo(target_OI.dtype).tiny
    for _ in range(num_iterations):
        product = (direction @ hessian_II) * kept
        curvature_O = (direction * product).sum(1, keepdim=True)
        # A row that is solved has energy 0: it stays where it is instead of dividing 0 by 0.
        length_O = torch.where(curvature_O > tiny, energy_O / curvature_O, 0.0)
        solution = solution + length_O * direction
        residual = residual - length_O * product
        preconditioned = residual * inverse_diagonal_I
        next_energy_O = (residual * preconditioned).sum(1, keepdim=True)
        direction = preconditioned + torch.where(energy_O > tiny, next_energy_O / energy_O, 0.0) * direction
        energy_O = next_energy_O
    return solution


class Compensated(Redistribution):
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
    damping: float = Field(0.01, gt=0, le=1)
    num_iterations: int = Field(8, ge=1, le=10_000)
    num_rows: int = Field(32, ge=1, le=100_000)
    normalise: bool = False

    @torch.no_grad()
    def start(self, layers: Sequence[Survivors], setting: Setting) -> dict[str, Tensor]:
        model = setting.lm.model
        hessians = {
            layer.name: layer.weight.new_zeros(layer.weight.shape[1], layer.weight.shape[1]) for layer in layers
        }
        order = torch.randperm(len(setting.retain))[: self.num_rows].tolist()
        sequences = [setting.retain[i] for i in order]
        linears = {name: model.get_submodule(name.removesuffix(".weight")) for name in hessians}
        for indices in by_length(sequences, 8):
            batch = collate([sequences[i] for i in indices]).to(model.device)
            keep_BT = batch.attention_mask_BT.bool()

            def add(name: str, inputs_BTI: Tensor, keep_BT: Tensor = keep_BT) -> None:
                inputs_NI = inputs_BTI[keep_BT]
                hessians[name].addmm_(inputs_NI.T, inputs_NI)

            with observing(linears, add):
                model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT, use_cache=False)
        for hessian_II in hessians.values():
            diagonal_I = hessian_II.diagonal()
            diagonal_I += self.damping * diagonal_I.mean() + torch.finfo(diagonal_I.dtype).tiny
        return hessians

    def redistribute(self, layer: Survivors, step_S: Tensor, state: Any) -> Tensor:
        hessian_II = state[layer.name]
        step_OI = layer.scatter(step_S)
        kept_norm_O = layer.gradient_OI.masked_fill(~layer.kept_OI, 0.0).norm(dim=1, keepdim=True)
        step_norm_O = step_OI.norm(dim=1, keepdim=True)
        rate_O = torch.where(kept_norm_O > 0, step_norm_O / kept_norm_O, 0.0)
        lost_OI = (-rate_O * layer.gradient_OI).masked_fill(layer.kept_OI, 0.0)
        taken_OI = step_OI + solve_on_survivors(lost_OI @ hessian_II, hessian_II, layer.kept_OI, self.num_iterations)
        if self.normalise:
            taken_norm_O = taken_OI.norm(dim=1, keepdim=True)
            taken_OI = taken_OI * torch.where(taken_norm_O > 0, step_norm_O / taken_norm_O, 0.0)
        return layer.gather(taken_OI)
