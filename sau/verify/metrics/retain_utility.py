"""Retain utility: what unlearning left of the answers that were to stay."""

from typing import ClassVar, Literal

import numpy as np

from sau.errors import DataError
from sau.verify.metrics.base import Direction, ModelMetric, Readings, checked_values, token_means


class RetainUtility(ModelMetric):
    """Mean answer probability on the retain rows, as a multiple of the model's before unlearning."""

    name: Literal["retain_utility"] = "retain_utility"
    better: ClassVar[Direction] = "higher"
    aggregation: ClassVar[str] = "ratio of means over retain records"
    against: ClassVar[Literal["before", "reference"] | None] = "before"

    def value(self, readings: Readings, against: Readings | None = None) -> float:
        if against is None:
            raise DataError("metric 'retain_utility': the readings of the model before unlearning are needed")
        after, before = (
            checked_values(np.exp(token_means(side["retain"])), self.name).mean() for side in (readings, against)
        )
        return float(after / before)
