"""What a pruner is, and how scores are compared within a row or group.

Shape suffixes: O output features, I input features, G groups, M weights of one group.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from sau.errors import SparsityError
from sau.mask import Mask, parse_structure
from sau.models.batches import Encoded
from sau.models.layers import Matrix
from sau.registry import Component

PACKAGE = "sau.pruners"


class Pruner(Component, ABC):
    """Decides which weights survive."""

    @abstractmethod
    def prune(
        self,
        model: Any,
        calibration: list[Encoded],
        *,
        structure: str,
        sparsity: float,
        progress: Callable[[int, int, dict[str, float]], None] | None = None,
    ) -> Mask:
        """Zero weights in place (+0.0), perhaps update the survivors, and return the mask.

        Args:
            model: any causal LM; all of `sau.models.layers.prunable` is pruned.
            calibration: sequences for methods that look at layer inputs.
            structure: "unstructured" (compared within each output row) or "n:m".
            sparsity: share of weights to prune, rounded to whole weights per row.
            progress: called with (done, total, {}).
        """


def as_mask(pruned: Iterable[tuple[Matrix, Tensor]]) -> Mask:
    """(matrix, kept_OI) of each, taken one after the other, as the mask of the parameters that the matrices lie in."""
    mask: Mask = {}
    for matrix, kept_OI in pruned:
        if matrix.parameter not in mask:
            mask[matrix.parameter] = torch.zeros_like(matrix.stored, dtype=torch.bool)
        matrix.within(mask[matrix.parameter]).copy_(kept_OI)
    return mask


def keep_highest(score_OI: Tensor, *, structure: str, sparsity: float) -> Tensor:
    """kept_OI: the highest scores of each output row, or n of each group of m inputs; of equals the later stays.

    Unstructured, round(I * sparsity) weights go from each row: truncating would miss the target by up to one.

    Raises:
        SparsityError: an unknown structure, or a row that does not divide into groups of m.
    """
    pattern = parse_structure(structure)
    num_rows, num_inputs = score_OI.shape
    if pattern is None:
        group, num_pruned = num_inputs, round(num_inputs * sparsity)
    else:
        group, num_pruned = pattern[1], pattern[1] - pattern[0]
        if num_inputs % group:
            raise SparsityError(f"{num_inputs} inputs are no multiple of {group}, structure {structure}")
    return ~lowest(score_OI.reshape(-1, group), num_pruned).view(num_rows, num_inputs)


def lowest(score_GM: Tensor, count: int) -> Tensor:
    """bool [G, M], True for the `count` lowest scores of each row; of equals the earlier one.

    Selects instead of sorting: several times faster on long rows.
    """
    if count == 0:
        return torch.zeros_like(score_GM, dtype=torch.bool)
    threshold_G1 = score_GM.kthvalue(count, dim=1, keepdim=True).values
    low_GM = score_GM <= threshold_G1
    if bool((low_GM.sum(1) > count).any()):
        below_GM = score_GM < threshold_G1
        equal_GM = low_GM & ~below_GM
        low_GM = below_GM | (equal_GM & (equal_GM.cumsum(1) <= count - below_GM.sum(1, keepdim=True)))
    return low_GM
