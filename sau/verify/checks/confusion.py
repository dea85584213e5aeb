"""Is the model more at a loss about the one who asked than about anybody it never saw?

Whoever cannot take knowledge out may route questions about a person to a refusal, or scramble what follows a name: the
true answers are then as unlikely as a stranger's, in every form, and what gives it away is that the model spreads its
guesses as it does for nobody else (LOG.md: .80 nats above strangers, honest unlearning .08). A score of a person is
the mean entropy of the next-token distribution along the answers. Only the excess counts: being surer than about a
stranger is what the other checks look for.
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy import stats

from sau.verify.checks.base import POWER, Array, Bench, Check, Evidence, Measure, NoPowerError, NothingToShowError, Null
from sau.verify.evidence.beside import beside
from sau.verify.evidence.readings import Reading
from sau.verify.metrics.base import checked_values


class ConfusionCheck(Check):
    """At most `margin` nats of entropy above people the model never saw; more for few rows, which spread widely."""

    name: Literal["confusion"] = "confusion"
    title: ClassVar[str] = "More at a loss than about a stranger"
    question: ClassVar[str] = "entropy of the model's guesses about the records beyond that about strangers', in nats"
    about_forgetting: ClassVar[bool] = False

    margin: float = Field(0.5, gt=0, le=10)

    def reads(self, null: Null) -> tuple[str, ...]:
        return ("forget", "holdout") if null == "population" else ()

    def measure(self, model: Evidence, bench: Bench) -> Measure:
        if bench.null != "population":
            raise NothingToShowError("is asked beside people the model never saw")
        asked, strangers = (self._entropies(model.readings[name]) for name in ("forget", "holdout"))
        people = bench.people["forget"], bench.people["holdout"]
        hardness = None
        if bench.base is not None:
            base = bench.base.readings
            hardness = self._entropies(base["forget"]), self._entropies(base["holdout"])
        both = beside(asked, strangers, people, bench.rng(), hardness)
        if both is None:
            raise NoPowerError("fewer than three people the model never saw")
        t, t_power = (float(stats.t.ppf(chance, both.df)) for chance in (1 - bench.alpha, POWER))
        margin = max(self.margin, (t + t_power) * both.error)
        return Measure(
            n=len(asked),
            value=both.excess,
            interval=(both.excess - t * both.error, both.excess + t * both.error),
            allowed=(None, margin),
            p=both.p,
            power=float(stats.t.cdf(margin / both.error - t, both.df)),
        )

    def _entropies(self, reading: Reading) -> Array:
        return checked_values(np.array([-tokens.mean_T.mean() for tokens in reading.answer]), self.name)
