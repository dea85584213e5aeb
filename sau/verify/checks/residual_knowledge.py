"""How much of what the model had learned of the forget records is left?

    share = mean_i (l_i - l_i^ref) / mean_i (l_i^before - l_i^ref),  l the mean log-probability per answer token

1 = nothing was forgotten, 0 = as if never seen, below 0 = the records are less likely than to a model that never
saw them (over-unlearning, itself a tell). Beside a retrained model records are paired: row difficulty cancels. Beside
people the model never saw, those take the place of the reference (`sau.verify.checks.people`). Under a stressor the
numerator speaks of the changed models, while what had been learned stays the yardstick.
"""

from typing import ClassVar, Literal

from pydantic import Field

from sau.verify.checks.base import Bench, Control, Evidence, Measure, NoPowerError
from sau.verify.checks.people import PeopleCheck, share_left
from sau.verify.metrics.base import checked_values, token_means
from sau.verify.stats import interval, p_against, resamples, tost_power


class ResidualKnowledgeCheck(PeopleCheck):
    """The share that is left, at most `margin` (beside strangers `share`) above and `over_margin` below zero."""

    name: Literal["residual_knowledge"] = "residual_knowledge"
    title: ClassVar[str] = "Residual knowledge"
    question: ClassVar[str] = "share of what had been learned of the records that is left (0 = never seen, 1 = all)"
    uses: ClassVar[frozenset[Control]] = frozenset({"before", "reference"})
    sets: ClassVar[tuple[str, ...]] = ("forget",)

    margin: float = Field(0.3, gt=0, lt=1)
    over_margin: float = Field(1.0, gt=0, le=1000)

    def beside_strangers(self, model: Evidence, bench: Bench) -> Measure:
        return share_left(
            lambda reading: {"": checked_values(token_means(reading), self.name)},
            model,
            bench,
            margin=self.share,
            over_margin=self.over_margin,
        )

    def beside_retrained(self, model: Evidence, bench: Bench) -> Measure:
        assert bench.before is not None
        assert bench.reference is not None
        assert bench.reference_as_stored is not None
        after, before, reference, untouched = (
            checked_values(token_means(e.readings["forget"]), self.name)
            for e in (model, bench.before, bench.reference, bench.reference_as_stored)
        )
        weights = resamples(len(after), bench.seed)
        learned = weights @ (before - untouched)
        if interval(learned, bench.alpha)[0] <= 0:
            raise NoPowerError("the model before unlearning knows the records no better than one that never saw them")
        left = weights @ (after - reference)
        draws = left / learned
        return Measure(
            n=len(after),
            value=float((after - reference).mean() / (before - untouched).mean()),
            interval=interval(draws, bench.alpha),
            allowed=(-self.over_margin, self.margin),
            p=p_against(left, 0.0),
            power=tost_power(-self.over_margin, self.margin, float(draws.std()), bench.alpha),
        )
