"""What an objective and a redistribution remember from step to step, taken out of their states and put back.

Their states are objects of their own making; whatever in them is a tensor or a number and is no longer what `start`
made it is what has to be kept. The rest (reference values, a frozen model, inputs' moments) `start` makes again.
"""

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

from torch import Tensor, nn

from sau.models.batches import Encoded
from sau.models.language_model import LanguageModel
from sau.unlearn.calibration import Calibration
from sau.unlearn.objectives.base import Setting

_CONSTANT = (Setting, LanguageModel, Encoded, nn.Module, str, type(None))

Memory = dict[str, Tensor | float]


class Remembering:
    """What changes in a state, by path.

    Args:
        state: as `start` has made it.
    """

    def __init__(self, state: Any) -> None:
        self.state = state
        self._made = {path: (value, _version(value)) for path, _, _, value in _leaves(state)}

    def changed(self) -> Memory:
        """What is not as it was made."""
        found: Memory = {}
        for path, _, _, value in _leaves(self.state):
            made, version = self._made.get(path, (None, -1))
            if isinstance(value, Tensor):
                if value is not made or version != _version(value):
                    found[path] = value
            elif value != made:
                found[path] = value
        return found

    def recall(self, memory: Memory) -> None:
        """Put back what another such state had changed."""
        for path, owner, key, value in list(_leaves(self.state)):
            if path not in memory:
                continue
            new = memory[path]
            if isinstance(value, Tensor) and isinstance(new, Tensor):
                new = new.to(value.device)
            if isinstance(owner, dict | list):
                owner[key] = new
            else:
                setattr(owner, key, new)


def tensors_in(state: Any) -> dict[str, Tensor]:
    """The tensors of a state, by path."""
    return {path: value for path, _, _, value in _leaves(state) if isinstance(value, Tensor)}


def _version(value: Any) -> int:
    return value._version if isinstance(value, Tensor) else 0


def _leaves(owner: Any, path: str = "") -> Iterator[tuple[str, Any, Any, Any]]:
    """(path, what holds it, under which key, value) of every tensor and number below."""
    if isinstance(owner, Tensor):
        return  # a state that is one tensor is a reference value
    for key, value in _parts(owner):
        below = f"{path}/{key}" if path else str(key)
        if isinstance(value, Tensor | int | float):
            yield below, owner, key, value
        else:
            yield from _leaves(value, below)


def _parts(owner: Any) -> list[tuple[Any, Any]]:
    if isinstance(owner, _CONSTANT):
        return []
    if isinstance(owner, dict):
        return list(owner.items())
    if isinstance(owner, list | tuple):
        return list(enumerate(owner))
    if is_dataclass(owner) or isinstance(owner, Calibration):
        return list(vars(owner).items())
    raise TypeError(f"{type(owner).__name__}: a state is made of dataclasses, dicts, lists, tensors and numbers")
