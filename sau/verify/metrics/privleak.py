"""PrivLeak (MUSE, arXiv 2407.06460): membership leakage against the retrain model's.

    100 * ((1 - AUC) - (1 - AUC_ref)) / (1 - AUC_ref)

with AUC = 1 where the forget set looks like training data. 0 is ideal, -100 full leakage, large positive
over-unlearned. Without a reference there is no value, never a silent AUC_ref of 0.5.
"""

from typing import ClassVar, Literal

from sau.errors import DataError
from sau.verify.metrics.base import Direction, ModelMetric, Readings
from sau.verify.metrics.mia_min_k import MiaMinK


def privleak(model_auc: float, reference_auc: float) -> float:
    """Percent.

    Raises:
        DataError: the reference's AUC is 1, so that there is nothing to compare with.
    """
    if reference_auc >= 1.0:
        raise DataError("metric 'privleak': the reference model's AUC is 1, it has to be below")
    return 100.0 * (reference_auc - model_auc) / (1.0 - reference_auc)


class PrivLeak(ModelMetric):
    """PrivLeak of the Min-K% attack, k = 0.4 as is usual for it."""

    name: Literal["privleak"] = "privleak"
    better: ClassVar[Direction] = "closer_to_retrain"
    aggregation: ClassVar[str] = "percent, from the Min-40% AUC forget against holdout"
    against: ClassVar[Literal["before", "reference"] | None] = "reference"

    def value(self, readings: Readings, against: Readings | None = None) -> float:
        if against is None:
            raise DataError("metric 'privleak': a reference model's readings are needed")
        attack = MiaMinK(k=0.4)
        return privleak(attack.value(readings), attack.value(against))
