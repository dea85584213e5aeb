"""Further pruning: sparsification has undone dense unlearning (arXiv 2602.00577)."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from sau.models.language_model import LanguageModel
from sau.models.layers import prunable
from sau.verify.stressors.base import Stressor, Surroundings, copied


def pruned_further(weight_OI: Tensor, share: float) -> Tensor:
    """[O, I] with the smallest `share` of each row's weights, on top of its zeros, set to zero; at most all of them."""
    zeros_O = (weight_OI == 0).sum(dim=1)
    count_O = (zeros_O + round(share * weight_OI.shape[1])).clamp_max(weight_OI.shape[1])
    rank_OI = weight_OI.abs().argsort(dim=1, stable=True).argsort(dim=1)
    return weight_OI.masked_fill(rank_OI < count_O[:, None], 0.0)


class PruneFurther(Stressor):
    """`points` more percentage points of sparsity in every row, by magnitude."""

    name: Literal["prune_further"] = "prune_further"
    title: ClassVar[str] = "after further pruning"

    points: int = Field(10, ge=1, le=50)

    @property
    def id(self) -> str:
        return f"prune{self.points}"

    @torch.no_grad()
    def apply(self, lm: LanguageModel, around: Surroundings) -> LanguageModel:
        changed = copied(lm)
        for _, linear in prunable(changed.model):
            linear.weight.copy_(pruned_further(linear.weight, self.points / 100))
        return changed
