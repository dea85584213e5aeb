"""Importance-aware redistribution, by scaling each survivor's step: our own reading of arXiv 2602.00577.

Shape suffixes: O output features, I input features, S survivors of one matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sau.errors import DivergedError
from sau.models.ranks import ALONE, Ranks
from sau.training.optimizer import Survivors
from sau.unlearn.objectives.base import Setting
from sau.unlearn.redistribution.base import Redistribution


@dataclass
class _Seen:
    """Running means of squared gradients for one matrix; `pruned_O` and `kept_O` are sums over a row's weights."""

    pruned_O: Tensor
    kept_O: Tensor
    survivors_S: Tensor


# NumPy is three to five times faster than torch at rows of unequal length, where it can be had.


def row_sums(values_S: Tensor, num_survivors_O: Tensor) -> Tensor:
    """Sums [O] over each row's survivors; 0 for a row that has none."""
    if not values_S.is_cpu:
        return torch.segment_reduce(values_S, "sum", lengths=num_survivors_O, initial=0.0, unsafe=True)
    some_O = num_survivors_O > 0
    starts_O = num_survivors_O.cumsum(0) - num_survivors_O
    sums = np.add.reduceat(values_S.numpy(), starts_O[some_O].numpy())
    return values_S.new_zeros(len(some_O)).masked_scatter_(some_O, torch.from_numpy(sums))


def spread(values_O: Tensor, num_survivors_O: Tensor) -> Tensor:
    """Each row's value, once for each of its survivors [S]."""
    if not values_O.is_cpu:
        return values_O.repeat_interleave(num_survivors_O)
    return torch.from_numpy(np.repeat(values_O.numpy(), num_survivors_O.numpy()))


def importance_scale(
    pruned_O: Tensor,
    kept_O: Tensor,
    survivors_S: Tensor,
    num_survivors_O: Tensor,
    *,
    bound: float,
    normalise: bool,
    ranks: Ranks = ALONE,
) -> Tensor:
    """The factor [S] on each survivor's step.

    A row's survivors share the importance A_o of its pruned weights in proportion to their own importance I_oi:
    survivor (o, i) receives A_o * I_oi / sum_S I_o, measured in units of the row's mean survivor importance, so
    scale = 1 + A_o / sum_S(I_o) * I_oi / mean_S(I_o), at most `bound`. Were every weight of a half-pruned row
    equally important, each survivor would step for itself and for one lost weight: scale 2.

    Args:
        pruned_O, kept_O: summed importance of each row's pruned and surviving weights.
        survivors_S: importance of the survivors.
        num_survivors_O: how many of them each row has.
        bound: largest factor before normalising.
        normalise: divide by the mean over the matrix's survivors, so that only the direction of the step changes.
        ranks: the processes that have the matrix's other rows.
    """
    # In float64: importance is a squared gradient, and its square leaves float32. Rows only; S would be dear.
    boost_O = torch.where(kept_O > 0, pruned_O * num_survivors_O / kept_O.double().square(), 0.0)
    boost_O = boost_O.clamp_max(torch.finfo(survivors_S.dtype).max).to(survivors_S.dtype)  # no inf * 0
    scale_S = spread(boost_O, num_survivors_O).mul_(survivors_S).add_(1).clamp_max_(bound)
    return scale_S.div_(ranks.mean(scale_S)) if normalise else scale_S


class Importance(Redistribution):
    """Survivors step further in rows whose pruned weights the forget loss asked most of.

    Importance is I = E[G^2], a running mean over steps of the squared gradient of the forget term. It minimises
    nothing: it is a heuristic on step sizes, bounded by `bound`. What retain rows need is left to the retain term,
    and to `project`.

    Without `normalise` the mean factor exceeds 1, and most of the gain is a larger learning rate.
    """

    reads_gradient = False
    name: Literal["importance"] = "importance"
    decay: float = Field(0.9, ge=0, lt=1)
    bound: float = Field(4.0, ge=1, le=100)
    normalise: bool = True

    def start(self, layers: Sequence[Survivors], setting: Setting) -> dict[str, _Seen]:
        return {
            layer.name: _Seen(
                pruned_O=torch.zeros(len(layer.kept_OI), device=layer.weight.device),
                kept_O=torch.zeros(len(layer.kept_OI), device=layer.weight.device),
                survivors_S=torch.zeros(layer.num_survivors, device=layer.weight.device),
            )
            for layer in layers
        }

    def observe(self, layer: Survivors, state: Any) -> None:
        seen = state[layer.name]
        squares_S = layer.gather(layer.gradient_OI).square_()
        kept_O = row_sums(squares_S, layer.num_survivors_O)
        # All minus survivors: several times cheaper than masking the matrix.
        pruned_O = torch.linalg.vector_norm(layer.gradient_OI, dim=1).square_().sub_(kept_O).clamp_min_(0.0)
        if layer.ranks.total(pruned_O.isfinite().logical_not().sum()):  # the optimizer checks survivors only
            raise DivergedError(f"the forget term's gradient of {layer.name} is not finite")
        for mean, value in ((seen.pruned_O, pruned_O), (seen.kept_O, kept_O), (seen.survivors_S, squares_S)):
            mean.lerp_(value, 1 - self.decay)

    def redistribute(self, layer: Survivors, step_S: Tensor, state: Any) -> Tensor:
        seen = state[layer.name]
        scale_S = importance_scale(
            seen.pruned_O,
            seen.kept_O,
            seen.survivors_S,
            layer.num_survivors_O,
            bound=self.bound,
            normalise=self.normalise,
            ranks=layer.ranks,
        )
        return scale_S.mul_(step_S)
