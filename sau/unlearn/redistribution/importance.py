"""Importance-aware redistribution, by scaling each survivor's step: our own reading of arXiv 2602.00577.

Shape suffixes: O output features, I input features, S survivors of one matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from sau.unlearn.objectives.base import Setting
from sau.unlearn.optimizer import Survivors, row_sums
from sau.unlearn.redistribution.base import Redistribution


@dataclass
class _Seen:
    """Running means of squared gradients for one matrix."""

    pruned_O: Tensor
    survivors_S: Tensor


def importance_scale(
    pruned_O: Tensor, survivors_S: Tensor, num_survivors_O: Tensor, *, bound: float, normalise: bool
) -> Tensor:
    """The factor [S] on each survivor's step.

    A row's survivors share the importance A_o of its pruned weights in proportion to their own importance I_oi:
    survivor (o, i) receives A_o * I_oi / sum_S I_o, measured in units of the row's mean survivor importance, so
    scale = 1 + A_o / sum_S(I_o) * I_oi / mean_S(I_o), at most `bound`. Were every weight of a half-pruned row
    equally important, each survivor would step for itself and for one lost weight: scale 2.

    Args:
        pruned_O: summed importance of each row's pruned weights.
        survivors_S: importance of the survivors.
        num_survivors_O: how many of them each row has.
        bound: largest factor before normalising.
        normalise: divide by the mean over the matrix's survivors, so that only the direction of the step changes.
    """
    # In float64: importance is a squared gradient, and its square leaves float32.
    total_O = row_sums(survivors_S, num_survivors_O).double()
    boost_O = torch.where(total_O > 0, pruned_O * num_survivors_O / total_O.square(), 0.0)
    scale_S = (1 + boost_O.repeat_interleave(num_survivors_O) * survivors_S).clamp_max(bound)
    if normalise:
        scale_S = scale_S / scale_S.mean()
    return scale_S.to(survivors_S.dtype)


class Importance(Redistribution):
    """Survivors step further in rows whose pruned weights the forget loss asked most of.

    Importance is I = E[G^2], a running mean over steps of the squared gradient of the forget term. It minimises
    nothing: it is a heuristic on step sizes, bounded by `bound`. What retain rows need is left to the retain term,
    and to `project`.

    Without `normalise` the mean factor exceeds 1, and most of the gain is a larger learning rate.
    """

    name: Literal["importance"] = "importance"
    decay: float = Field(0.9, ge=0, lt=1)
    bound: float = Field(4.0, ge=1, le=100)
    normalise: bool = True

    def start(self, layers: Sequence[Survivors], setting: Setting) -> dict[str, _Seen]:
        return {
            layer.name: _Seen(
                pruned_O=layer.weight.new_zeros(layer.weight.shape[0]),
                survivors_S=torch.zeros_like(layer.values_S),
            )
            for layer in layers
        }

    def observe(self, layer: Survivors, state: Any) -> None:
        seen = state[layer.name]
        squares_S = layer.forget_gradient_S.square()
        # All minus survivors: several times cheaper than masking the matrix.
        pruned_O = layer.gradient_OI.square().sum(1) - row_sums(squares_S, layer.num_survivors_O)
        seen.pruned_O.lerp_(pruned_O.clamp_min(0.0), 1 - self.decay)
        seen.survivors_S.lerp_(squares_S, 1 - self.decay)

    def redistribute(self, layer: Survivors, step_S: Tensor, state: Any) -> Tensor:
        seen = state[layer.name]
        return step_S * importance_scale(
            seen.pruned_O, seen.survivors_S, layer.num_survivors_O, bound=self.bound, normalise=self.normalise
        )
