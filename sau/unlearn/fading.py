"""A mask that fades in: a dense model becomes the sparse one step by step, while its survivors unlearn."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sau.errors import SparsityError
from sau.mask import apply_mask
from sau.models.layers import prunable


def check_can_fade(model: nn.Module) -> None:
    """Refuse order `unlearn-prune` for a model with fused experts; shapes are enough to say so.

    Raises:
        SparsityError: what stands beside a fused expert's weights could not be multiplied by.
    """
    if fused := [matrix for _, matrix in prunable(model) if matrix.expert is not None]:
        raise SparsityError(f"{fused[0].parameter}: fused experts cannot fade, order prune-unlearn is needed")


@torch.no_grad()
@contextmanager
def fading_mask(model: nn.Module, mask: Mapping[str, Tensor]) -> Iterator[Callable[[float], None]]:
    """While open, only the survivors are a dense model's weights; what the mask will take stands beside them as a
    constant: W x = W_survivors x + left * W_pruned x.

    Yields:
        What sets `left`, in [0, 1]: 1 at first, so that the model computes what it did. On leaving, the pruned
        weights are gone, whatever is left.

    Raises:
        SparsityError: see `check_can_fade`.
    """
    check_can_fade(model)
    matrices = [matrix for _, matrix in prunable(model) if matrix.parameter in mask]
    rest_OI = {
        matrix.name: matrix.weight.detach().masked_fill(matrix.within(mask[matrix.parameter]), 0.0)
        for matrix in matrices
    }
    apply_mask(model, mask)
    left = 1.0

    def hook(name: str) -> Callable[[Any, tuple[Tensor, ...], Tensor], Tensor]:
        return lambda _module, inputs, output: output + left * F.linear(inputs[0], rest_OI[name]) if left else output

    def fade(to: float) -> None:
        nonlocal left
        left = to

    handles = [matrix.module.register_forward_hook(hook(matrix.name)) for matrix in matrices]
    try:
        yield fade
    finally:
        for handle in handles:
            handle.remove()
