"""SparseGPT: prune column by column, survivors to the right compensate (Frantar & Alistarh 2023, arXiv 2301.00774)."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sau.errors import SparsityError
from sau.sparsity.mask import parse_structure
from sau.sparsity.pruners.base import LayerwisePruner, keep_highest

BLOCK_COLUMNS = 128


def sparsegpt(
    weight_OI: Tensor, hessian_II: Tensor, *, structure: str, sparsity: float, damping: float
) -> tuple[Tensor, Tensor]:
    """(weight, kept) of the OBS solution, weights fixed from left to right.

    With U the upper Cholesky factor of H^-1, pruning column i costs (w_i / U_ii)^2 and moves the columns j > i of
    its row by -(w_i / U_ii) * U_ij, which minimises the change of the layer's output. Unstructured, the cheapest
    weights go from each block of BLOCK_COLUMNS columns, all rows compared with one another as in the paper;
    n:m compares within each group as it is reached.

    Args:
        weight_OI: the dense weight.
        hessian_II: X^T X of the layer's inputs, in any scale.
        structure, sparsity: what to prune.
        damping: share of the mean diagonal that is added to the diagonal.

    Raises:
        SparsityError: inputs so degenerate that the damped Hessian has no inverse, or a row that does not divide
            into groups of m.
    """
    pattern = parse_structure(structure)
    num_rows, num_inputs = weight_OI.shape
    if pattern and num_inputs % pattern[1]:
        raise SparsityError(f"{num_inputs} inputs are no multiple of {pattern[1]}, structure {structure}")
    width = BLOCK_COLUMNS if pattern is None else max(BLOCK_COLUMNS // pattern[1], 1) * pattern[1]
    weight_OI = weight_OI.clone()
    kept_OI = torch.ones_like(weight_OI, dtype=torch.bool)
    factor_II = _inverse_factor(hessian_II, damping)
    diagonal_I = factor_II.diagonal()

    for start in range(0, num_inputs, width):
        end = min(start + width, num_inputs)
        errors = torch.zeros_like(weight_OI[:, start:end])
        if pattern is None:
            score = (weight_OI[:, start:end] / diagonal_I[start:end]).square()
            # Differences of rounded totals, so that rounding does not add up over blocks.
            num_pruned = round(num_rows * end * sparsity) - round(num_rows * start * sparsity)
            flat = torch.ones(score.numel(), dtype=torch.bool, device=score.device)
            flat[score.reshape(-1).argsort(stable=True)[:num_pruned]] = False
            kept_OI[:, start:end] = flat.view_as(score)
        for i in range(start, end):
            if pattern and (i - start) % pattern[1] == 0:
                group = slice(i, i + pattern[1])
                score = (weight_OI[:, group] / diagonal_I[group]).square()
                kept_OI[:, group] = keep_highest(score, structure=structure, sparsity=sparsity)
            error_O = (weight_OI[:, i] / diagonal_I[i]).masked_fill(kept_OI[:, i], 0.0)
            weight_OI[:, i + 1 : end] -= error_O[:, None] * factor_II[i, i + 1 : end]
            errors[:, i - start] = error_O
        weight_OI[:, end:] -= errors @ factor_II[start:end, end:]
    return weight_OI.masked_fill_(~kept_OI, 0.0), kept_OI


def _inverse_factor(hessian_II: Tensor, damping: float) -> Tensor:
    """Upper Cholesky factor of the inverse of the damped Hessian."""
    hessian_II = hessian_II.clone()
    diagonal_I = hessian_II.diagonal()
    diagonal_I += damping * diagonal_I.mean()
    diagonal_I.masked_fill_(diagonal_I == 0, 1.0)
    try:
        inverse_II = torch.cholesky_inverse(torch.linalg.cholesky(hessian_II))
        return torch.linalg.cholesky(inverse_II, upper=True)
    except torch.linalg.LinAlgError:
        raise SparsityError(
            f"sparsegpt: the Hessian of {len(hessian_II)} inputs has no inverse at damping {damping}; "
            "a larger damping or more calibration rows are needed"
        ) from None


class SparseGpt(LayerwisePruner):
    """Prunes like Wanda block by block, but also updates the survivors so that the layer's output changes least."""

    name: Literal["sparsegpt"] = "sparsegpt"
    damping: float = Field(0.01, gt=0, le=1)

    def accumulate(self, total: Tensor | None, inputs_NI: Tensor) -> Tensor:
        gram_II = inputs_NI.T @ inputs_NI
        return gram_II if total is None else total.add_(gram_II)

    def prune_layer(self, weight_OI: Tensor, total: Tensor, *, structure: str, sparsity: float) -> Tensor:
        new_OI, kept_OI = sparsegpt(
            weight_OI.float(), total, structure=structure, sparsity=sparsity, damping=self.damping
        )
        weight_OI.copy_(new_OI)
        return kept_OI
