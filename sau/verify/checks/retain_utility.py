"""Does the model still answer what was to stay? A destroyed model has forgotten everything."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from sau.verify.checks.base import Bench, Check, Control, Evidence, Measure
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
        after, before = (
            checked_values(np.exp(token_means(e.readings["retain"])), self.name) for e in (model, bench.before)
        )
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
        )
