"""SparseGPT: prune column by column, survivors to the right compensate (Frantar & Alistarh 2023, arXiv 2301.00774)."""

from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sau.errors import SparsityError
from sau.mask import parse_structure
from sau.pruners.base import keep_highest, lowest
from sau.pruners.layerwise import NOT_FINITE, LayerwisePruner

BLOCK_COLUMNS = 128

STRIP_COLUMNS = 256


def sparsegpt(
    weight_OI: Tensor, hessian_II: Tensor, *, structure: str, sparsity: float, damping: float
) -> tuple[Tensor, Tensor]:
    """(weight, kept) of the OBS solution for one layer; see `prune_columns`.

    Args:
        weight_OI: the dense weight.
        hessian_II: X^T X of the layer's inputs, in any scale.
        structure, sparsity: what to prune.
        damping: share of the mean diagonal that is added to the diagonal.

    Raises:
        SparsityError: see `inverse_factor` and `prune_columns`.
    """
    return prune_columns(weight_OI, inverse_factor(hessian_II.clone(), damping), structure=structure, sparsity=sparsity)


def prune_columns(weight_OI: Tensor, factor_II: Tensor, *, structure: str, sparsity: float) -> tuple[Tensor, Tensor]:
    """(weight, kept): weights fixed from left to right, survivors to the right of a pruned weight make up for it.

    With U the factor, pruning column i costs (w_i / U_ii)^2 and moves the columns j > i of
    its row by -(w_i / U_ii) * U_ij, which minimises the change of the layer's output. Unstructured, the cheapest
    weights go from each block of BLOCK_COLUMNS columns, all rows compared with one another as in the paper;
    n:m compares within each group as it is reached.

    Args:
        weight_OI: the dense weight.
        factor_II: upper Cholesky factor of the inverse Hessian of the layer's inputs.
        structure, sparsity: what to prune.

    Raises:
        SparsityError: a row that does not divide into groups of m.
    """
    pattern = parse_structure(structure)
    num_rows, num_inputs = weight_OI.shape
    if pattern and num_inputs % pattern[1]:
        raise SparsityError(f"{num_inputs} inputs are no multiple of {pattern[1]}, structure {structure}")
    width = BLOCK_COLUMNS if pattern is None else max(BLOCK_COLUMNS // pattern[1], 1) * pattern[1]
    # Transposed, so that a column of the weight is contiguous.
    weight_IO = weight_OI.T.clone(memory_format=torch.contiguous_format)
    kept_IO = torch.ones_like(weight_IO, dtype=torch.bool)
    diagonal_I1 = factor_II.diagonal()[:, None]

    for start in range(0, num_inputs, width):
        end = min(start + width, num_inputs)
        block = slice(start, end)
        scaled = weight_IO[block] / diagonal_I1[block]
        errors = torch.zeros_like(scaled)
        if pattern is None:
            # Differences of rounded totals, so that rounding does not add up over blocks.
            num_pruned = round(num_rows * end * sparsity) - round(num_rows * start * sparsity)
            kept_IO[block] = ~lowest(scaled.square().view(1, -1), num_pruned).view_as(scaled)
        for i in range(start, end):
            if pattern and (i - start) % pattern[1] == 0:
                group = slice(i, i + pattern[1])
                score_OM = (weight_IO[group] / diagonal_I1[group]).square().T
                kept_IO[group] = keep_highest(score_OM, structure=structure, sparsity=sparsity).T
            error_O = torch.div(weight_IO[i], diagonal_I1[i], out=errors[i - start]).masked_fill_(kept_IO[i], 0.0)
            weight_IO[i + 1 : end].addr_(factor_II[i, i + 1 : end], error_O, alpha=-1)
        weight_IO[end:].addmm_(factor_II[block, end:].T, errors, alpha=-1)
    return weight_IO.masked_fill_(~kept_IO, 0.0).T, kept_IO.T


def gram(inputs_NI: Iterable[Tensor]) -> Tensor:
    """X^T X [I, I] over all batches. Only the upper half is multiplied out, in strips: it is symmetric."""
    total_II: Tensor | None = None
    for x_NI in inputs_NI:
        num_inputs = x_NI.shape[1]
        if total_II is None:
            total_II = x_NI.new_zeros(num_inputs, num_inputs)
        for start in range(0, num_inputs, STRIP_COLUMNS):
            rows = slice(start, start + STRIP_COLUMNS)
            total_II[rows, start:].addmm_(x_NI[:, rows].T, x_NI[:, start:])
    assert total_II is not None
    upper_II = total_II.triu_()
    return upper_II + upper_II.triu(1).T


def inverse_factor(hessian_II: Tensor, damping: float) -> Tensor:
    """Upper Cholesky factor of the inverse of the damped Hessian, which is overwritten.

    Raises:
        SparsityError: inputs that are not finite, or so degenerate that the damped Hessian has no inverse.
    """
    diagonal_I = hessian_II.diagonal()
    diagonal_I += damping * diagonal_I.mean()
    diagonal_I.masked_fill_(diagonal_I == 0, 1.0)
    try:
        inverse_II = torch.cholesky_inverse(torch.linalg.cholesky(hessian_II))
        return torch.linalg.cholesky(inverse_II, upper=True)
    except torch.linalg.LinAlgError:
        if not hessian_II.isfinite().all():
            raise SparsityError(NOT_FINITE) from None
        raise SparsityError(
            f"sparsegpt: the Hessian of {len(hessian_II)} inputs has no inverse at damping {damping}; "
            "a larger damping or more calibration rows are needed"
        ) from None


class SparseGpt(LayerwisePruner):
    """Prunes like Wanda layer by layer, but also updates the survivors so that the layer's output changes least."""

    name: Literal["sparsegpt"] = "sparsegpt"
    damping: float = Field(0.01, gt=0, le=1)

    def statistic(self, inputs_NI: Iterable[Tensor]) -> Tensor:
        """X^T X [I, I]."""
        return gram(inputs_NI)

    def ready(self, statistic: Tensor) -> Tensor:
        """Upper Cholesky factor of the inverse Hessian [I, I]."""
        return inverse_factor(statistic, self.damping)

    def prune_layer(self, weight_OI: Tensor, statistic: Tensor, *, structure: str, sparsity: float) -> Tensor:
        new_OI, kept_OI = prune_columns(weight_OI.float(), statistic, structure=structure, sparsity=sparsity)
        weight_OI.copy_(new_OI)
        return kept_OI
