"""Does the model still answer what was to stay? A destroyed model has forgotten everything.

Where it is known which people unlearning was not shown, they are asked: what it trained on, it may answer better than
before, while what it never looked at pays.
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from sau.verify.checks.base import Array, Bench, Check, Control, Evidence, Measure
from sau.verify.metrics.base import checked_values, token_means
from sau.verify.stats import interval, p_against, resamples, tost_power


class RetainUtilityCheck(Check):
    """Mean answer probability on the retain rows as a multiple of before, not below 1 - margin."""

    name: Literal["retain_utility"] = "retain_utility"
    title: ClassVar[str] = "Retained ability"
    question: ClassVar[str] = "answer quality on the data to keep, as a multiple of before"
    uses: ClassVar[frozenset[Control]] = frozenset({"before"})
    about_forgetting: ClassVar[bool] = False
    sets: ClassVar[tuple[str, ...]] = ("retain",)

    margin: float = Field(0.15, gt=0, lt=1)

    def measure(self, model: Evidence, bench: Bench) -> Measure:
        assert bench.before is not None
        everybody, everybody_before = (
            checked_values(np.exp(token_means(e.readings["retain"])), self.name) for e in (model, bench.before)
        )
        asked = list(bench.spared or range(len(everybody)))
        after, before = everybody[asked], everybody_before[asked]
        weights = resamples(len(after), bench.seed)
        draws = (weights @ after) / (weights @ before)
        low = 1.0 - self.margin
        return Measure(
            n=len(after),
            value=float(after.mean() / before.mean()),
            interval=interval(draws, bench.alpha),
            allowed=(low, None),
            p=p_against(draws, 1.0),
            power=tost_power(low - 1.0, np.inf, float(draws.std()), bench.alpha),
            note=_note(everybody, everybody_before, asked) if bench.spared else "",
        )


def _note(after: Array, before: Array, asked: list[int]) -> str:
    shown = np.delete(np.arange(len(after)), asked)
    beside = f", {after[shown].mean() / before[shown].mean():.2f} on the others" if len(shown) else ""
    return f"; on {len(asked)} records that unlearning was not shown{beside}"
