"""Filling the holes: someone with the dense parent puts its weights back where the sparse model has none."""

from typing import ClassVar, Literal

import torch

from sau.errors import ConfigError
from sau.models.language_model import LanguageModel
from sau.verify.stressors.base import Stressor, Surroundings, copied


class Densify(Stressor):
    """Pruned weights taken from the dense model; survivors as they are."""

    name: Literal["densify"] = "densify"
    title: ClassVar[str] = "with pruned weights filled back"
    needs_dense: ClassVar[bool] = True

    @torch.no_grad()
    def apply(self, lm: LanguageModel, around: Surroundings) -> LanguageModel:
        if around.dense is None:
            raise ConfigError("densify: the dense model that the sparse one comes from was not given")
        if lm.mask is None:
            raise ConfigError("densify: the model is not sparse")
        changed = copied(lm)
        changing, dense = dict(changed.model.named_parameters()), dict(around.dense.model.named_parameters())
        for name, kept_OI in lm.mask.items():
            kept_OI = kept_OI.to(changing[name].device)
            changing[name].copy_(torch.where(kept_OI, changing[name], dense[name].to(changing[name].device)))
        changed.mask = None
        return changed
