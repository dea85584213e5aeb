"""Can the update be taken off? What lies in a few directions of each matrix is an adapter, all knowledge under it.

A low-rank update that was trained to hide somebody passes every check that only asks: who made it, or finds it by
relearning, takes it off and has the model before. Unlearning that moves weights by itself spreads (LOG.md: .40 of the
change of SAU, .57 of retraining, 1.00 of an adapter of rank 4). Noise of full rank on top of an adapter is not seen.
"""

from typing import ClassVar, Literal

from pydantic import Field

from sau.verify.checks.base import Bench, Check, Control, Evidence, Extra, Measure, NothingToShowError


class FewDirectionsCheck(Check):
    """At most `margin` of the squared change in a thirty-second of each matrix' directions."""

    name: Literal["few_directions"] = "few_directions"
    title: ClassVar[str] = "An update that can be taken off"
    question: ClassVar[str] = "share of the weights' change that a few directions explain (1 = a low-rank adapter)"
    uses: ClassVar[frozenset[Control]] = frozenset({"before"})
    about_forgetting: ClassVar[bool] = False
    extra: ClassVar[Extra | None] = "directions"
    sets: ClassVar[tuple[str, ...]] = ()

    margin: float = Field(0.85, gt=0, lt=1)

    def measure(self, model: Evidence, bench: Bench) -> Measure:
        if model.directions is None:
            raise NothingToShowError("the model before has other matrices, so there is no change to look at")
        value, number = model.directions
        return Measure(
            n=number,
            value=value,
            interval=(value, value),
            allowed=(None, self.margin),
            p=0.0 if value > self.margin else 1.0,
            power=1.0,
        )
