"""Model utility (TOFU, arXiv 2401.06121): harmonic mean of what should stay.

TOFU takes nine numbers, three sets times three measures; here it is the retain set's probability, truth ratio
and, where answers were generated, ROUGE-L recall. Any zero makes it zero.
"""

from typing import ClassVar, Literal

from scipy.stats import hmean

from sau.errors import DivergedError
from sau.verify.evidence.readings import Part
from sau.verify.metrics.base import Direction, ModelMetric, Readings
from sau.verify.metrics.probability import Probability
from sau.verify.metrics.rouge_l_recall import RougeLRecall
from sau.verify.metrics.truth_ratio import TruthRatio


def harmonic_mean(values: list[float]) -> float:
    """n / sum(1 / v); 0 where any value is 0.

    Raises:
        DivergedError: a value is negative or NaN.
    """
    if not all(v >= 0 for v in values):
        raise DivergedError("a harmonic mean needs values of 0 or more")
    return float(hmean(values))


class ModelUtility(ModelMetric):
    """Harmonic mean over the retain set's measures, in [0, 1]."""

    name: Literal["model_utility"] = "model_utility"
    better: ClassVar[Direction] = "higher"
    aggregation: ClassVar[str] = "harmonic mean of retain probability, truth ratio and, if generated, ROUGE-L recall"
    needs: ClassVar[frozenset[Part]] = frozenset({"truth_ratio"})

    def value(self, readings: Readings, against: Readings | None = None) -> float:
        retain = readings["retain"]
        measures = [Probability(), TruthRatio(), *([RougeLRecall()] if retain.rouge is not None else [])]
        return harmonic_mean([measure.value(retain, "retain") for measure in measures])
