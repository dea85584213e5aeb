"""Forget quality (TOFU, arXiv 2401.06121): are the truth ratios those of a model that never saw the records?

The two-sided Kolmogorov-Smirnov p-value, as log10. It cannot go below log10(2 / C(2n, n)): total separation,
over-unlearning as well as none, has that value. A p above 0.05 is no evidence of forgetting at small n, so no
verdict rests on it.
"""

from typing import ClassVar, Literal

import numpy as np
from scipy.stats import ks_2samp

from sau.errors import DataError
from sau.verify.evidence.readings import Part
from sau.verify.metrics.base import Array, Direction, ModelMetric, Readings, checked_values
from sau.verify.metrics.truth_ratio import log_truth_ratios


def log10_ks(first: Array, second: Array) -> float:
    """log10 of the two-sided KS p-value; identical samples give 0."""
    p = float(ks_2samp(first, second, alternative="two-sided", method="auto").pvalue)
    return float(np.log10(max(p, np.finfo(float).tiny)))


class ForgetQuality(ModelMetric):
    """log10 KS p-value of the forget rows' truth ratios against the reference's; 0 is best."""

    name: Literal["forget_quality"] = "forget_quality"
    better: ClassVar[Direction] = "higher"
    aggregation: ClassVar[str] = "log10 of the two-sided KS p-value over forget records"
    needs: ClassVar[frozenset[Part]] = frozenset({"truth_ratio"})
    against: ClassVar[Literal["before", "reference"] | None] = "reference"

    def value(self, readings: Readings, against: Readings | None = None) -> float:
        if against is None:
            raise DataError("metric 'forget_quality': a reference model's readings are needed")
        ratios = [checked_values(log_truth_ratios(side["forget"]), self.name) for side in (readings, against)]
        return log10_ks(*ratios)
