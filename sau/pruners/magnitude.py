"""Magnitude pruning: the smallest weights of each row go (Han et al. 2015, arXiv 1506.02626)."""

from collections.abc import Callable
from typing import Any, Literal

import torch

from sau.mask import Mask
from sau.models.batches import Encoded
from sau.models.layers import prunable
from sau.pruners.base import Pruner, keep_highest


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
        mask: Mask = {}
        linears = list(prunable(model))
        for done, (name, linear) in enumerate(linears, 1):
            kept_OI = keep_highest(linear.weight.abs(), structure=structure, sparsity=sparsity)
            linear.weight.masked_fill_(~kept_OI, 0.0)
            mask[f"{name}.weight"] = kept_OI
            if progress:
                progress(done, len(linears), {})
        return mask
