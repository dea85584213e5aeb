"""Do those who stay pay? That they were trained on must not be easier to read than before.

Unlearning holds the rows to keep by training on them further, and can make their membership plainer while it hides that
of the one who asked (arXiv 2403.01218). With x the membership scores of the people who stay, y those of people the
model never saw, each the mean over a person's records,

    separation = (mean x - mean y) / sd(y)

and the number is that of the model over that of the model before, or over one standard deviation where that is more:
a difference that nobody can read may grow. People are resampled, the same ones under both models.
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from sau.registry import build
from sau.verify.checks.base import Array, Bench, Check, Control, Evidence, Measure, NoPowerError
from sau.verify.evidence.beside import by_person_means
from sau.verify.metrics.base import PACKAGE, MembershipMetric, Metric, checked_values
from sau.verify.stats import interval, p_against, resamples, tost_power

_FEWEST = 3


class KeptMembershipCheck(Check):
    """At most 1 + margin of the separation before."""

    name: Literal["kept_membership"] = "kept_membership"
    title: ClassVar[str] = "Membership of those who stay"
    question: ClassVar[str] = (
        "how far those who stay stand out from people the model never saw, as a multiple of before"
    )
    uses: ClassVar[frozenset[Control]] = frozenset({"before"})
    about_forgetting: ClassVar[bool] = False
    sets: ClassVar[tuple[str, ...]] = ("retain", "holdout")

    metric: str = "mia_min_k"
    margin: float = Field(0.5, gt=0, le=10)

    @field_validator("metric")
    @classmethod
    def _reads_the_model_alone(cls, metric: str) -> str:
        attack = build(Metric, PACKAGE, metric)
        if not isinstance(attack, MembershipMetric) or attack.against_reference or attack.needs:
            raise ValueError("has to be a membership metric of the answers alone, such as mia_min_k")
        return metric

    def measure(self, model: Evidence, bench: Bench) -> Measure:
        assert bench.before is not None
        now, before = self._scores(model, bench), self._scores(bench.before, bench)
        if min(map(len, now)) < _FEWEST:
            raise NoPowerError(f"fewer than {_FEWEST} people to keep, or whom the model never saw")
        whole = tuple(np.full((1, len(scores)), 1 / len(scores)) for scores in now)
        drawn = resamples(len(now[0]), bench.seed), resamples(len(now[1]), bench.seed + 1)
        value, draws = (
            _separation(now, weights) / np.maximum(_separation(before, weights), 1.0) for weights in (whole, drawn)
        )
        return Measure(
            n=len(bench.people["retain"]),
            value=float(value[0]),
            interval=interval(draws, bench.alpha),
            allowed=(None, 1.0 + self.margin),
            p=p_against(draws, 1.0),
            power=tost_power(-np.inf, self.margin, float(draws.std()), bench.alpha),
        )

    def _scores(self, evidence: Evidence, bench: Bench) -> tuple[Array, Array]:
        """Of each person who stays, and of each stranger."""
        attack = build(Metric, PACKAGE, self.metric)
        assert isinstance(attack, MembershipMetric)
        stay, strangers = (
            by_person_means(checked_values(attack.scores(evidence.readings[name]), self.name), bench.people[name])
            for name in ("retain", "holdout")
        )
        return stay, strangers


def _separation(scores: tuple[Array, Array], weights: tuple[Array, ...]) -> Array:
    """[D]: of people who stay [N] from strangers [M], in the strangers' standard deviations, under weights [D, .]."""
    stay, strangers = scores
    centre = weights[1] @ strangers
    spread = np.sqrt(np.maximum(weights[1] @ strangers**2 - centre**2, 1e-12))
    found: Array = (weights[0] @ stay - centre) / spread
    return found
