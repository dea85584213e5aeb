"""Can one tell from the model's scores that the forget records were trained on?

The AUC of a membership score, forget against never-trained holdout, has to be equivalent to that of the model that
never saw the records (two one-sided tests), not to 0.5: a forget set can be easier text than the holdout. Records
are resampled, both models scored on the same ones. Void where text alone, without any model, tells the sets apart.

Beside people the model never saw the number is the share of the score's excess before that is left, person by person.
"""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from sau.registry import build
from sau.verify.checks.base import Array, Bench, Control, Evidence, Measure, NoPowerError
from sau.verify.checks.people import PeopleCheck, share_left
from sau.verify.evidence.readings import Part
from sau.verify.metrics.base import PACKAGE, MembershipMetric, Metric, checked_values
from sau.verify.stats import interval, p_against, resamples, tost_power, wins


class MembershipCheck(PeopleCheck):
    """AUC within `margin` of the reference's; `over_margin` on the low side, by default the same. Beside people the
    model never saw at most `share` of the score's excess is left."""

    name: Literal["membership"] = "membership"
    title: ClassVar[str] = "Membership inference"
    question: ClassVar[str] = "chance that a forgotten record looks more like training data than an unseen one (AUC)"
    left: ClassVar[str] = "share that is left of how much more than a stranger's records these look like training data"
    uses: ClassVar[frozenset[Control]] = frozenset({"reference"})

    metric: str = "mia_loss"
    margin: float = Field(0.25, gt=0, lt=0.5)
    over_margin: float | None = Field(None, gt=0, lt=1)

    @field_validator("metric")
    @classmethod
    def _membership_metric(cls, metric: str) -> str:
        if not isinstance(build(Metric, PACKAGE, metric), MembershipMetric):
            raise ValueError("has to be a membership metric, such as mia_loss")
        return metric

    @property
    def id(self) -> str:
        return f"{self.name}/{self.metric}"

    @property
    def label(self) -> str:
        return f"{self.title} ({self.metric.removeprefix('mia_').replace('_', '-')})"

    @property
    def needs(self) -> frozenset[Part]:
        return self._attack.needs

    @property
    def _attack(self) -> MembershipMetric:
        attack = build(Metric, PACKAGE, self.metric)
        assert isinstance(attack, MembershipMetric)
        return attack

    def beside_strangers(self, model: Evidence, bench: Bench) -> Measure:
        if self._attack.against_reference:
            raise NoPowerError("needs a retrained model")
        return share_left(
            lambda reading: {"": checked_values(self._attack.scores(reading), self.name)},
            model,
            bench,
            margin=self.share,
            over_margin=None,
        )

    def beside_retrained(self, model: Evidence, bench: Bench) -> Measure:
        assert bench.reference is not None
        if bench.blind_void:
            raise NoPowerError(
                f"void: words alone, without any model, tell forget from holdout records (AUC {bench.blind_auc:.2f})"
            )
        wins_NM, reference_wins_NM = (self._wins(e, bench.reference) for e in (model, bench.reference))
        target = float(reference_wins_NM.mean())
        # Two seeds: sets of the same size must not be drawn alike.
        forget_weights, holdout_weights = (resamples(n, bench.seed + i) for i, n in enumerate(wins_NM.shape))
        difference_NM = wins_NM - reference_wins_NM
        draws = ((forget_weights @ difference_NM) * holdout_weights).sum(-1)
        low, high = interval(draws, bench.alpha)
        below = self.margin if self.over_margin is None else self.over_margin
        return Measure(
            n=sum(wins_NM.shape),
            value=float(wins_NM.mean()),
            interval=(max(0.0, target + low), min(1.0, target + high)),
            allowed=(target - below, target + self.margin),
            p=p_against(draws, 0.0),
            power=tost_power(-below, self.margin, float(draws.std()), bench.alpha),
        )

    def _wins(self, evidence: Evidence, reference: Evidence) -> Array:
        members, others = (
            checked_values(self._attack.scores(evidence.readings[s], reference.readings[s]), self.name)
            for s in ("forget", "holdout")
        )
        return wins(members, others)
