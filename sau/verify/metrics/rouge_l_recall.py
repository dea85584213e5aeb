"""ROUGE-L recall of the greedy answer (TOFU, arXiv 2401.06121): stemmer on, at most 200 new tokens."""

from typing import ClassVar, Literal

from sau.errors import DataError
from sau.verify.evidence.readings import Part, Reading
from sau.verify.metrics.base import Array, Direction, RecordMetric


class RougeLRecall(RecordMetric):
    """The share of the answer's words that the generated answer has in the same order, in [0, 1]."""

    name: Literal["rouge_l_recall"] = "rouge_l_recall"
    better: ClassVar[Direction] = "closer_to_retrain"
    aggregation: ClassVar[str] = "mean over records"
    needs: ClassVar[frozenset[Part]] = frozenset({"rouge"})

    def per_record(self, reading: Reading) -> Array:
        if reading.rouge is None:
            raise DataError("metric 'rouge_l_recall': the reading holds no generated answers")
        return reading.rouge
