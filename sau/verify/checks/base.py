"""What a check is: one number of one model, its interval, and the margins a policy allows it.

    PASS          the whole interval lies within the margins (two one-sided tests, so an interval at 1 - 2 alpha)
    FAIL          the number lies beyond a margin and differs from "no signal" (p, Holm-adjusted over the battery)
    INCONCLUSIVE  neither: too few records to tell

    NOT APPLICABLE  even the model before unlearning gives nothing away here

A check of forgetting is read against one of two nulls: `population`, people whom the model never saw, under the same
model, and `retrained`, another model that never saw the records. The same measurement is taken of the model before
unlearning, which has to FAIL: otherwise the check has no power; and where there is a retrained model, it has to PASS.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sau.errors import SauError
from sau.registry import Component
from sau.verify.evidence.readings import Part
from sau.verify.metrics.base import Readings

PACKAGE = "sau.verify.checks"

Array = NDArray[np.float64]

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE", "NOT APPLICABLE", "REFUSED"]

Null = Literal["population", "retrained"]
"""What somebody looks like whom the model never saw: held-out people, or a model retrained without the records."""

Control = Literal["before", "reference"]
"""A model that a check is read against."""

Extra = Literal["decoys", "samples", "directions"]


POWER = 0.8
"""Chance of a perfect result to PASS that few rows are given by a wider margin, where the policy allows it."""


class NoPowerError(SauError):
    """The check could not tell a difference on these records even where there is one."""


class NothingToShowError(SauError):
    """The model before unlearning gives nothing away that this check could look for."""


@dataclass(frozen=True)
class Evidence:
    """All numbers one model gave.

    Attributes:
        readings: of each set.
        secrets: per forget row with decoys, its number among the forget rows.
        decoys: per such row, the log-probability of the true answer [0] and of each decoy [1:].
        exact: per such row, whether the decoys are as likely as the true answer to a model that never saw it.
        leaks, chance: (samples that hold the secret, samples drawn), of the forget rows and of strangers' rows; None
            where none were drawn.
        directions: (share of the weights' change since the model before that a few directions explain, matrices that
            changed); None where it was not looked at, or there is nothing to compare.
    """

    readings: Readings
    secrets: tuple[int, ...] = ()
    decoys: tuple[Array, ...] = ()
    exact: tuple[bool, ...] = ()
    leaks: tuple[int, int] | None = None
    chance: tuple[int, int] | None = None
    directions: tuple[float, int] | None = None

    def asked_by(self, rows: Sequence[int]) -> "Evidence":
        """That of some of the forget rows; samples, which are drawn of all, are left out."""
        chosen = set(rows)
        own = [i for i, row in enumerate(self.secrets) if row in chosen]
        readings = {name: r.take(rows) if name == "forget" else r for name, r in self.readings.items()}
        return Evidence(
            readings,
            tuple(self.secrets[i] for i in own),
            tuple(self.decoys[i] for i in own),
            tuple(self.exact[i] for i in own),
            directions=self.directions,
        )


@dataclass(frozen=True)
class Bench:
    """What a measurement is read against.

    Attributes:
        null: what a check of forgetting is read against.
        people: of each set, per row, whom it is about, as a number.
        spared: the rows to keep, by number, that unlearning was not shown; empty where nobody knows.
        widest: share that a check may be held to where few rows allow for no narrower margin.
        slack: share that may be left beyond the margin where the models have been changed.
        base: numbers of a model that saw none of the rows; None where scores are taken as they are.
        before, reference: the controls' numbers, None where there is no such model; under a stressor the reference
            has been through it, too, and `reference_as_stored` has not.
        taught: a stressor has shown every model forget rows, so that only the excess over the reference is a trace.
        alpha: level of each one-sided test.
        seed: of the bootstrap.
        blind_auc, blind_void: how well words alone tell forget from holdout, and whether that voids membership.
    """

    before: Evidence | None
    reference: Evidence | None
    alpha: float
    seed: int
    reference_as_stored: Evidence | None = None
    taught: bool = False
    blind_auc: float = 0.5
    blind_void: bool = False
    null: Null = "retrained"
    widest: float = 0.0
    slack: float = 0.0
    base: Evidence | None = None
    people: Mapping[str, Sequence[int]] = field(default_factory=dict)
    spared: Sequence[int] = ()

    def rng(self) -> np.random.Generator:
        """A fresh generator: the same records give the same interval, whichever checks ran before."""
        return np.random.default_rng(self.seed)


@dataclass(frozen=True)
class Measure:
    """One number of one model.

    Attributes:
        allowed: (lowest, highest) value that is acceptable; None where that side is open.
        p: of "no signal".
        power: chance to PASS a model that equals the reference; None where not computed.
        note: a sentence about this measurement.
        seen: share of the people who stay that would FAIL in the place of the one who asked; None where not tried.
        alarms: share of the strangers that would; None where they are not the null.
    """

    n: int
    value: float
    interval: tuple[float, float]
    allowed: tuple[float | None, float | None]
    p: float
    power: float | None = None
    note: str = ""
    seen: float | None = None
    alarms: float | None = None

    @property
    def is_below(self) -> bool:
        """Whether the value is below what is acceptable: a hole, no trace."""
        return self.allowed[0] is not None and self.value < self.allowed[0]

    def verdict(self, p: float, alpha: float) -> Verdict:
        """The verdict, with `p` adjusted for the battery."""
        if not np.isfinite([self.value, *self.interval]).all():
            return "INCONCLUSIVE"
        low = -np.inf if self.allowed[0] is None else self.allowed[0]
        high = np.inf if self.allowed[1] is None else self.allowed[1]
        if low <= self.interval[0] and self.interval[1] <= high and low <= self.value <= high:
            return "PASS"
        if not low <= self.value <= high and p < alpha:
            return "FAIL"
        return "INCONCLUSIVE"


class Check(Component):
    """Base of all checks."""

    title: ClassVar[str]
    question: ClassVar[str]
    uses: ClassVar[frozenset[Control]] = frozenset()
    extra: ClassVar[Extra | None] = None
    sets: ClassVar[tuple[str, ...]] = ("forget", "holdout")
    about_forgetting: ClassVar[bool] = True

    mandatory: bool = True

    @property
    def id(self) -> str:
        """Unique within a policy."""
        return self.name

    @property
    def label(self) -> str:
        """The title, with what tells this check from others of its kind."""
        return self.title

    @property
    def needs(self) -> frozenset[Part]:
        """What readings have to hold beyond the answer tokens."""
        return frozenset()

    def asks(self, null: Null) -> str:
        """What its number means, in words."""
        return self.question

    def controls(self, null: Null) -> frozenset[Control]:
        """The models it cannot do without."""
        return self.uses

    def reads(self, null: Null) -> tuple[str, ...]:
        """The sets it cannot do without."""
        return self.sets

    def measure(self, model: Evidence, bench: Bench) -> Measure:
        """The check's number for `model`.

        Raises:
            NoPowerError: these records cannot show a difference.
            DataError, DivergedError: nothing to measure, or a value is not finite.
        """
        raise NotImplementedError
