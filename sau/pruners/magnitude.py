"""Magnitude pruning: the smallest weights of each row go (Han et al. 2015, arXiv 1506.02626)."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from sau.mask import Mask
from sau.models.batches import Encoded
from sau.models.layers import Matrix, prunable
from sau.pruners.base import Pruner, as_mask, keep_highest


class Magnitude(Pruner):
    """Score abs(W_oi), compared within each output row (or group of m), not over the whole matrix. No calibration."""

    name: Literal["magnitude"] = "magnitude"

    @torch.no_grad()
    def prune(
        self,
        model: Any,
        calibration: list[Encoded],
        *,
        structure: str,
        sparsity: float,
        progress: Callable[[int, int, dict[str, float]], None] | None = None,
    ) -> Mask:
        matrices = [matrix for _, matrix in prunable(model)]

        def pruned() -> Iterator[tuple[Matrix, Tensor]]:
            for done, matrix in enumerate(matrices, 1):
                kept_OI = keep_highest(matrix.weight.abs(), structure=structure, sparsity=sparsity)
                matrix.weight.masked_fill_(~kept_OI, 0.0)
                if progress:
                    progress(done, len(matrices), {})
                yield matrix, kept_OI

        return as_mask(pruned())
