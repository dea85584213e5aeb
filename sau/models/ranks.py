"""Which process has which rows of a model: here one has them all; `sau.models.sharding` has several share them.

What training, pruning and reading ask of several processes is a method here, and of one process it is nothing: no sum
changes, and torch.distributed is not imported.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

Item = TypeVar("Item")
Key = TypeVar("Key")
Result = TypeVar("Result")

_NAME = "sau_ranks"


class Ranks:
    """One process; the base of those that share a model's rows (dim 0 of each parameter) in order of `rank`.

    Whatever is called on one process is called on all of them, in the same order.

    Attributes:
        rank: this process's number, from 0 on.
        size: how many processes there are.
        in_step: whether they go through the model together, because none of them has it whole.
    """

    rank = 0
    size = 1
    in_step = False

    def divide(self, lm: Any) -> Any:
        """The language model in place, this process with its rows alone."""
        return lm

    def outline(self, model: Any) -> Any:
        """The model undivided, where it is shared without its numbers: names, shapes, buffers, config."""
        return model

    def own(self, model: Any) -> dict[str, nn.Parameter]:
        """This process's rows of each parameter by name; to write to them is to change the model."""
        return dict(model.named_parameters())

    def collect(self) -> None:
        """After a backward pass: the gradients of what `own` gave, summed over the processes' parts of a batch."""

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        return value

    def mean(self, values: Tensor) -> Tensor:
        """The mean [] over the values of all processes."""
        return values.mean()

    def norm(self, own: Tensor) -> Tensor:
        """The norm [] of everything, of which `own` is the norm of this process's part."""
        return own

    def agreed(self, value: Item) -> Item:
        """What the first process has."""
        return value

    def merged(self, found: dict[Key, Item]) -> dict[Key, Item]:
        """What all processes found together."""
        return found

    def deal(self, items: Sequence[Item]) -> Iterator[tuple[Item, bool]]:
        """This process's items, every `size`-th, and that they count; in step as many on each process: where it has
        none left, the first item once more, which does not count."""
        for first in range(0, len(items), self.size):
            mine = first + self.rank
            if mine < len(items):
                yield items[mine], True
            elif self.in_step:
                yield items[0], False

    def alike(self, work: Callable[[], Result]) -> Result:
        """What comes of it on this process. Not in step, where it fails on one it fails on all: by our own error, or a
        SauError that says the kind of another's, whose words might quote a row."""
        return work()

    def each(self, items: Sequence[Item], work: Callable[[Item], Result]) -> list[Result]:
        """What comes of each item, in order: each is done on one process, and all have all; see also `alike`."""
        found: dict[int, Result] = {}

        def own() -> None:
            for number, counts in self.deal(range(len(items))):
                done = work(items[number])
                if counts:
                    found[number] = done

        self.alike(own)
        merged = self.merged(found)
        return [merged[number] for number in range(len(items))]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Ranks":
        """A model that is copied whole is this process's alone."""
        return ALONE

    def copy(self, model: Any) -> Any:
        """A copy that shares nothing with the model but who has which rows."""
        return copy.deepcopy(model)


ALONE = Ranks()


def together(processes: int, device: str) -> contextlib.AbstractContextManager[Ranks]:
    """So many processes, together while open; see `sau.models.sharding.joined`."""
    if processes == 1:
        return contextlib.nullcontext(ALONE)
    from sau.models.sharding import joined

    return joined(device)


def ranks_of(model: Any) -> Ranks:
    """The processes that a model lies on."""
    return getattr(model, _NAME, ALONE)


def set_ranks(model: Any, ranks: Ranks) -> None:
    """Say what a model lies on from here on."""
    setattr(model, _NAME, ranks)
