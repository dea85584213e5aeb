"""The interface of an objective, and what it may look at before the first step."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from sau.data.records import Row
from sau.models.batches import Encoded, collate
from sau.models.language_model import LanguageModel
from sau.models.outputs import Outputs, forward
from sau.models.ranks import ranks_of
from sau.models.scoring import answer_logps
from sau.registry import Component
from sau.unlearn.calibration import Calibration

PACKAGE = "sau.unlearn.objectives"


@dataclass(frozen=True)
class Setting:
    """What an objective or redistribution may look at before the first step.

    Attributes:
        lm: the model as it is before unlearning, and while it changes.
        forget_rows, forget, retain: the records to forget, and both sets as sequences. Of those to forget the last
            `num_earlier` were forgotten before, and are to stay so.
        holdout: some of the rows the model was never trained on, for measuring only.
        base: the model before it was trained on any of this, where there is one.
    """

    lm: LanguageModel
    forget_rows: list[Row]
    forget: list[Encoded]
    retain: list[Encoded]
    holdout: list[Encoded]
    base: LanguageModel | None = None
    num_earlier: int = 0

    @cached_property
    def calibration(self) -> Calibration:
        """How likely each forget row would be to a model that never saw it."""
        return Calibration(self.lm, self.base, self.forget, self.holdout)

    def reference_nlls(self, sequences: Sequence[Encoded]) -> Tensor:
        """Summed NLL of every answer under the present weights, without gradient."""
        nlls = [-logp.sum() for logp in answer_logps(self.lm.model, sequences)]
        return torch.stack(nlls).to(self.lm.model.device)

    def frozen_model(self) -> Any:
        """A copy with the present weights, for objectives that need the reference's whole distribution.

        Costs the model's size once and a forward pass per step; storing logits would cost rows x tokens x vocabulary.
        """
        return ranks_of(self.lm.model).copy(self.lm.model).requires_grad_(False).eval()

    def forward(self, sequences: Sequence[Encoded], rows_B: Tensor) -> Outputs:
        """The present model's outputs, with gradient, on sequences other than the step's own batches."""
        return forward(self.lm.model, collate(sequences).to(self.lm.model.device), rows_B)


class Objective(Component, ABC):
    """L = gamma * forget_loss + alpha * retain_loss; the loop owns weights, batches and steps.

    The config is frozen; whatever an objective has to remember (reference values, a dual variable) is the state
    that `start` returns and every other method is handed.
    """

    has_retain_term: ClassVar[bool] = True

    settles: ClassVar[bool] = False
    """Whether the forget loss has its minimum where the model is on rows that it never saw: then it also brings back
    there who was forgotten before. Without such a minimum it would push them on and on, and they are left alone."""

    adds_up: ClassVar[tuple[str, ...]] = ()
    """Numbers in the state to which each part of a step's batch adds its share: those of all processes are summed
    before `after_step`."""

    def start(self, setting: Setting) -> Any:
        """The state, made once before the first step. torch's generator is seeded here."""
        return None

    def trains(self, parameter: str, model: Any) -> bool:
        """Whether this parameter may move."""
        return True

    def hidden_block(self, model: Any) -> int | None:
        """The decoder block whose output `Outputs.hidden_ND` has to hold."""
        return None

    @abstractmethod
    def forget_loss(self, forget: Outputs, state: Any) -> Tensor:
        """Scalar loss on a batch of forget rows."""

    def retain_loss(self, retain: Outputs, state: Any) -> Tensor:
        """Scalar loss on a batch of retain rows: NLL/n unless the method says otherwise."""
        return retain.mean_nll

    def after_step(self, state: Any) -> None:
        """Called once per optimizer step."""
