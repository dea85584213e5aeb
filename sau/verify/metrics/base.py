"""What a metric is. Three kinds, by what they look at; all of them functions of arrays, none touches a model.

`better` says where a metric wants to go. A membership AUC has a target (the retrain model's), not an extreme.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sau.errors import DataError, DivergedError
from sau.registry import Component
from sau.verify.evidence.readings import Part, Reading
from sau.verify.stats import auc

PACKAGE = "sau.verify.metrics"

Array = NDArray[np.float64]

Direction = Literal["higher", "lower", "closer_to_retrain"]

Readings = Mapping[str, Reading]
"""One model's reading of each set: `forget`, `retain`, `holdout`."""


class Metric(Component):
    """Base of all metrics."""

    better: ClassVar[Direction]
    aggregation: ClassVar[str]
    needs: ClassVar[frozenset[Part]] = frozenset()


class RecordMetric(Metric):
    """A number per record; a set's value is their mean unless `aggregate` says otherwise."""

    def per_record(self, reading: Reading) -> Array:
        """[N] floats in the order of the rows, or of those rows that can be measured."""
        raise NotImplementedError

    def aggregate(self, values: Array, set_name: str) -> float:
        """The value of a whole set."""
        return float(values.mean())

    def value(self, reading: Reading, set_name: str) -> float:
        """The set's value.

        Raises:
            DataError: no record of the set can be measured.
            DivergedError: a record's value is not finite.
        """
        return self.aggregate(checked_values(self.per_record(reading), self.name), set_name)


class MembershipMetric(Metric):
    """A membership score per record, higher = more like training data; the value is the AUC forget vs holdout."""

    better: ClassVar[Direction] = "closer_to_retrain"
    aggregation: ClassVar[str] = "AUC, forget against holdout, ties half"
    against_reference: ClassVar[bool] = False

    def scores(self, reading: Reading, reference: Reading | None = None) -> Array:
        """[N] scores; `reference` is the reference model's reading of the same rows."""
        raise NotImplementedError

    def value(self, readings: Readings, reference: Readings | None = None) -> float:
        """The AUC; 1 = every forget record looks more like training data than every holdout record."""
        members, others = (
            checked_values(self.scores(readings[name], reference[name] if reference else None), self.name)
            for name in ("forget", "holdout")
        )
        return auc(members, others)


class ModelMetric(Metric):
    """One number for a whole model, read against another one (`against`)."""

    against: ClassVar[Literal["before", "reference"] | None] = None

    def value(self, readings: Readings, against: Readings | None = None) -> float:
        """The number."""
        raise NotImplementedError


def checked_values(values: Array, name: str) -> Array:
    """The same values, refused where there are none or any is NaN or infinite."""
    if values.size == 0:
        raise DataError(f"metric {name!r}: no record that it can measure")
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise DivergedError(f"metric {name!r}: {bad} of {values.size} values are not finite")
    return values


def token_means(reading: Reading) -> Array:
    """Mean answer log-probability per token [N], in nats; the negative of the usual loss."""
    return np.array([tokens.logp_T.mean() for tokens in reading.answer])
