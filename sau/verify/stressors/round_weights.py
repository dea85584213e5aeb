"""Weight rounding: 4-bit quantisation has brought back most of what had been unlearned (arXiv 2410.16454)."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from sau.models.language_model import LanguageModel
from sau.models.layers import prunable
from sau.verify.stressors.base import Stressor, Surroundings, copied


def rounded(weight_OI: Tensor, bits: int, group: int) -> Tensor:
    """Symmetric round-to-nearest, one scale (largest magnitude) per `group` inputs of a row [O, I]; zeros stay zero."""
    levels = 2 ** (bits - 1) - 1
    parts = []
    for part_OG in weight_OI.split(group, dim=1):
        scale_O1 = part_OG.abs().amax(dim=1, keepdim=True) / levels
        parts.append((part_OG / scale_O1.clamp_min(1e-12)).round() * scale_O1)
    return torch.cat(parts, dim=1)


class RoundWeights(Stressor):
    """Every prunable matrix rounded to `bits` bits in groups of `group` inputs."""

    name: Literal["round_weights"] = "round_weights"
    title: ClassVar[str] = "after quantisation"

    bits: int = Field(8, ge=2, le=8)
    group: int = Field(32, ge=1)

    @property
    def id(self) -> str:
        return f"int{self.bits}"

    @torch.no_grad()
    def apply(self, lm: LanguageModel, around: Surroundings) -> LanguageModel:
        changed = copied(lm)
        for _, linear in prunable(changed.model):
            linear.weight.copy_(rounded(linear.weight, self.bits, self.group))
        return changed
