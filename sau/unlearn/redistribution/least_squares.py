"""What redistributions share that look at a layer's inputs: their second moments, and systems on survivors.

Shape suffixes: O output features, I input features, N tokens, B sequences, T tokens.
"""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from sau.models.layers import prunable, reading_inputs
from sau.models.ranks import ranks_of
from sau.training.optimizer import Survivors
from sau.unlearn.objectives.base import Setting
from sau.unlearn.redistribution.base import Redistribution


class InputAware(Redistribution):
    """A redistribution that solves in the metric of a layer's inputs on `num_rows` retain rows before unlearning.

    Its state is H = X X^T plus `damping` of its mean diagonal, by name of matrix.
    """

    damping: float = Field(0.01, gt=0, le=1)
    num_rows: int = Field(32, ge=1, le=100_000)

    def start(self, layers: Sequence[Survivors], setting: Setting) -> dict[str, Tensor]:
        return input_moments(layers, setting, num_rows=self.num_rows, damping=self.damping)


def with_length_of(step_OI: Tensor, taken_OI: Tensor) -> Tensor:
    """`taken_OI`, each row scaled to the length that it has in `step_OI`; a row of zeros stays one."""
    length_O, taken_O = (matrix.norm(dim=1, keepdim=True) for matrix in (step_OI, taken_OI))
    return taken_OI * torch.where(taken_O > 0, length_O / taken_O, 0.0)


@torch.no_grad()
def input_moments(layers: Sequence[Survivors], setting: Setting, *, num_rows: int, damping: float) -> dict[str, Tensor]:
    """X X^T [I, I] of each layer's inputs on some of the retain rows, plus `damping` of its mean diagonal."""
    model = setting.lm.model
    ranks = ranks_of(model)
    moments = {layer.name: torch.zeros(2 * layer.kept_OI.shape[1:], device=layer.weight.device) for layer in layers}
    order = torch.randperm(len(setting.retain))[:num_rows].tolist()
    sequences = [setting.retain[i] for i in order]
    matrices = {matrix.name: matrix for _, matrix in prunable(model) if matrix.name in moments}
    reading_inputs(model, sequences, matrices, lambda name, inputs_NI: moments[name].addmm_(inputs_NI.T, inputs_NI))
    for name, moment_II in moments.items():
        moments[name] = moment_II = ranks.total(moment_II)  # each process needs all of it for its rows
        diagonal_I = moment_II.diagonal()
        diagonal_I += damping * diagonal_I.mean() + torch.finfo(diagonal_I.dtype).tiny
    return moments


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
