"""Further pruning: sparsification has undone dense unlearning (arXiv 2602.00577)."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from sau.data.records import Row
from sau.models.language_model import LanguageModel
from sau.models.layers import prunable, reading_inputs
from sau.verify.stressors.base import Stressor, Surroundings, copied


def pruned_further(weight_OI: Tensor, share: float, norm_I: Tensor | None = None) -> Tensor:
    """[O, I] with the lowest `share` of each row's weights, on top of its zeros, set to zero; at most all of them.

    Args:
        norm_I: of each input; weights are compared by |W_oi| times it, and by |W_oi| where there is none.
    """
    zero_OI = weight_OI == 0
    count_O = (zero_OI.sum(dim=1) + round(share * weight_OI.shape[1])).clamp_max(weight_OI.shape[1])
    score_OI = weight_OI.abs() if norm_I is None else weight_OI.abs() * norm_I.to(weight_OI.dtype)
    rank_OI = score_OI.masked_fill(zero_OI, -1.0).argsort(dim=1, stable=True).argsort(dim=1)
    return weight_OI.masked_fill(rank_OI < count_O[:, None], 0.0)


def input_norms(lm: LanguageModel, rows: Sequence[Row]) -> dict[str, Tensor]:
    """||X_i||_2 [I] of each prunable matrix's inputs on these rows, by name; none of a matrix that sees no token."""
    squares: dict[str, Tensor] = {}

    def add(name: str, inputs_NI: Tensor) -> None:
        squares_I = inputs_NI.square().sum(0)
        squares[name] = squares[name] + squares_I if name in squares else squares_I

    reading_inputs(lm.model, lm.encode(rows), dict(prunable(lm.model)), add)
    return {name: squares_I.sqrt() for name, squares_I in squares.items()}


class PruneFurther(Stressor):
    """`points` more percentage points of sparsity in every row, as one prunes who wants to go on using the model: what
    counts least on `rows` rows to keep, by magnitude times input norm (Wanda, Sun et al. 2023, arXiv 2306.11695).

    By magnitude alone, ten points leave nothing of a real model that Wanda has pruned (LOG.md), and what it says then
    is no more than noise. Matrices that see no token of those rows are compared by magnitude.
    """

    name: Literal["prune_further"] = "prune_further"
    title: ClassVar[str] = "after further pruning"

    points: int = Field(10, ge=1, le=50)
    rows: int = Field(32, ge=0, le=10_000)

    @property
    def id(self) -> str:
        return f"prune{self.points}"

    @torch.no_grad()
    def apply(self, lm: LanguageModel, around: Surroundings) -> LanguageModel:
        changed = copied(lm)
        every = max(len(around.retain) // self.rows, 1) if self.rows else 1
        norms = input_norms(changed, around.retain[::every][: self.rows])
        for name, matrix in prunable(changed.model):
            matrix.weight.copy_(pruned_further(matrix.weight, self.points / 100, norms.get(name)))
        return changed
