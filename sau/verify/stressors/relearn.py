"""Relearning: a few records shown again must not bring the rest back faster than to a model that never saw them
(arXiv 2506.00688)."""

from typing import ClassVar, Literal

import torch
from pydantic import Field

from sau.data.sets import by_person
from sau.models.language_model import LanguageModel
from sau.training.finetune import FinetuneParams, finetune
from sau.verify.stressors.base import Stressor, Surroundings, copied


class Relearn(Stressor):
    """Finetuning on `rows` of the forget rows for `epochs`, under the model's mask; beside strangers on as many rows of
    each person, so that all of them learn alike."""

    name: Literal["relearn"] = "relearn"
    title: ClassVar[str] = "after relearning"
    teaches: ClassVar[bool] = True

    rows: int = Field(5, ge=1)
    epochs: int = Field(5, ge=1, le=1000)
    lr: float = Field(1e-4, gt=0, le=1)
    batch_size: int = Field(8, ge=1, le=1024)

    @property
    def id(self) -> str:
        return f"relearn{self.rows}"

    def apply(self, lm: LanguageModel, around: Surroundings) -> LanguageModel:
        changed = copied(lm)
        groups = by_person([*around.forget, *around.strangers]) if around.strangers else [around.forget]
        rows = [group[i] for group in groups for i in self._order(len(group), around.seed)]
        params = FinetuneParams(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size)
        finetune(changed, changed.encode(rows), params, seed=around.seed)
        return changed

    def _order(self, num_rows: int, seed: int) -> list[int]:
        order: list[int] = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed)).tolist()
        return order[: self.rows]
