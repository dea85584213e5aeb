"""What a stressor is: a change of the model after which the core checks have to hold again.

The model that never saw the records goes through the same change, so that a check shows the excess: what the change
itself does to any model is no leak.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from sau.data.records import Row
from sau.models.language_model import LanguageModel
from sau.registry import Component

PACKAGE = "sau.verify.stressors"


@dataclass(frozen=True)
class Surroundings:
    """What a stressor may use: the forget rows, those of the strangers that they are judged beside (none where the null
    is a retrained model), rows to keep, a dense model that the sparse ones come from, a seed."""

    forget: Sequence[Row]
    strangers: Sequence[Row]
    retain: Sequence[Row]
    dense: LanguageModel | None
    seed: int


class Stressor(Component):
    """Base of all stressors."""

    title: ClassVar[str]
    needs_dense: ClassVar[bool] = False
    teaches: ClassVar[bool] = False
    """It shows the model forget rows: even one that never saw them then knows some."""

    mandatory: bool = True

    @property
    def id(self) -> str:
        """Unique within a policy."""
        return self.name

    def apply(self, lm: LanguageModel, around: Surroundings) -> LanguageModel:
        """A changed copy; `lm` stays as it is.

        Raises:
            ConfigError: what the stressor needs was not given.
        """
        raise NotImplementedError


def copied(lm: LanguageModel) -> LanguageModel:
    """The same model with weights of its own."""
    return replace(lm, model=copy.deepcopy(lm.model))
