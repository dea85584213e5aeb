"""What a verification costs: sequences put through models, and processor time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sau.models.ranks import Ranks


@dataclass(frozen=True)
class Cost:
    """`rows`: sequences put through a model, each pass of each counted (a generated token is a pass);
    `seconds`: processor time, all threads together, of all processes."""

    rows: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.rows + other.rows, self.seconds + other.seconds)


@dataclass
class Meter:
    """Costs by the part of the work they arose in."""

    parts: dict[str, Cost] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str, model: Any = None) -> Iterator[None]:
        """Charge what the block takes to `name`, the passes through `model` included."""
        rows = 0

        def count(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal rows
            rows += len(kwargs["input_ids"])

        hook = model.register_forward_pre_hook(count, with_kwargs=True) if model is not None else None
        started = time.process_time()
        try:
            yield
        finally:
            if hook is not None:
                hook.remove()
            self.parts[name] = self.of(name) + Cost(rows, time.process_time() - started)

    def of(self, *names: str) -> Cost:
        """The sum of these parts; what did not happen cost nothing."""
        return sum((self.parts.get(name, Cost()) for name in names), Cost())

    def over(self, ranks: Ranks) -> "Meter":
        """What all processes together took."""
        meters = ranks.merged({ranks.rank: self.parts}).values()
        return Meter({name: sum((parts[name] for parts in meters), Cost()) for name in self.parts})

    @property
    def total(self) -> Cost:
        return self.of(*self.parts)
