"""Checks that can be read against people the model never saw: what THIS model makes of them is the null.

The unit is the person. A person's score is the mean over their rows, a stranger's over as many rows as the request has.
With x the score of the one who asked, y_i those of m strangers, and x', y_i' the same of the model before unlearning:

    share = (x - mean y) / (x' - mean y')                          0 = as a stranger, 1 = as well known as before
    half  = t(m - 1, 1 - alpha) s sqrt(1 + 1/m) / (x' - mean y')   a prediction interval for one more stranger

s is the strangers' standard deviation. Where there is a base model, which saw none of these rows, scores are first
adjusted for how hard it finds them: the strangers' regression line on the base model's scores is taken off (analysis of
covariance; one degree of freedom less). Nothing is retrained, and nobody of the null may have been shown to unlearning.
Held-out people as a null anchored in the base model: arXiv 2607.19442; verification models on people: 2606.16110.

Few rows spread widely: where a stranger would lie within the margin with a probability below 0.8, the margin is widened
to where that holds, up to what the policy allows; a verdict on three rows then says less than one on twenty.

Two controls cost nothing and stand beside every number: people who stay, each taken for the one who asked, have to be
found, and a stranger, taken for the one who asked, must not be.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import stats

from sau.errors import DivergedError
from sau.verify.checks.base import (
    POWER,
    Bench,
    Check,
    Control,
    Evidence,
    Measure,
    NoPowerError,
    NothingToShowError,
    Null,
)
from sau.verify.evidence.beside import Beside, beside, by_person, by_person_means, chosen, together
from sau.verify.evidence.readings import Reading

Array = NDArray[np.float64]

Scores = Mapping[str, Array]
"""By form, a score of each row [N], higher where the model knows it better; NaN where the row cannot be put so."""


class PeopleCheck(Check):
    """Base of the checks that know both nulls.

    Attributes:
        share: of what had been learned, that may be left beside people the model never saw.
    """

    strangers: ClassVar[tuple[str, ...]] = ("forget", "holdout")
    left: ClassVar[str] = ""
    """What the number means beside strangers, where that is something else."""

    share: float = Field(0.4, gt=0, lt=1)

    def asks(self, null: Null) -> str:
        return self.left if null == "population" and self.left else self.question

    def controls(self, null: Null) -> frozenset[Control]:
        return frozenset({"before"}) if null == "population" else self.uses

    def reads(self, null: Null) -> tuple[str, ...]:
        return self.strangers if null == "population" else self.sets

    def measure(self, model: Evidence, bench: Bench) -> Measure:
        kind = self.beside_strangers if bench.null == "population" else self.beside_retrained
        return kind(model, bench)

    def beside_strangers(self, model: Evidence, bench: Bench) -> Measure:
        """The share that is left, among people the model never saw."""
        raise NotImplementedError

    def beside_retrained(self, model: Evidence, bench: Bench) -> Measure:
        """The check's number beside that of the retrained model."""
        raise NotImplementedError


def share_left(
    scores: Callable[[Reading], Scores], model: Evidence, bench: Bench, *, margin: float, over_margin: float | None
) -> Measure:
    """The share that is left, as the mean over the forms in which `scores` asks and the model before tells something.

    In each form the divisor is what the model before gave away there, or in the first form where that is more: a model
    may have been taught to tell everything where it was never asked, and a form in which little was known says little.
    A form in which the model before gives nothing away does not enter the mean, which it would only lower, nor does one
    in which not everybody can be asked: the mean is one of the same people in all forms. Any single form that is beyond
    the margin beyond doubt is a trace whatever the others say, and counts alone.

    Args:
        scores: the check's scores of a reading.
        margin, over_margin: shares that are acceptable above and below 0; None: any below.

    Raises:
        NothingToShowError: the model before gives nothing away in the first form, and this one nothing in any.
        NoPowerError: the model before gives nothing away, and this one does.
        DivergedError: a score is not finite.
    """
    assert bench.before is not None
    margin += bench.slack
    now, before = _by_form(scores, model, bench), _by_form(scores, bench.before, bench)
    if {form: asked.shape for form, asked in now.items()} != {form: asked.shape for form, asked in before.items()}:
        raise DivergedError("scores that the model before has are not finite")
    forms = list(now)
    first = before[forms[0]]
    if not _sticks_out(first, bench.alpha):
        nothing = (
            f"the model before knows the records no better than those of {first.num_strangers} people it never saw"
        )
        if any(_sticks_out(asked, bench.alpha / len(forms)) for asked in now.values()):
            raise NoPowerError(f"{nothing}, and this one does")
        raise NothingToShowError(nothing)
    telling = [form for form in forms if _sticks_out(before[form], bench.alpha)]
    learned = {form: max(first.excess, before[form].excess) for form in forms}
    share = {form: now[form].excess / learned[form] for form in forms}
    worst = max(forms, key=share.__getitem__)
    alone = share[worst] > margin and now[worst].p * len(forms) < bench.alpha
    single = alone or len(forms) == 1
    whole = [form for form in telling if now[form].has_the_people_of(now[forms[0]])]
    judged = now[worst] if single else together([(now[form], learned[form]) for form in whole])
    yardstick = learned[worst] if single else 1.0
    t, t_power = (float(stats.t.ppf(chance, judged.df)) for chance in (1 - bench.alpha, POWER))
    value, error = judged.excess / yardstick, judged.error / yardstick
    if len(forms) == 1 or not alone:
        margin = max(margin, min((t + t_power) * error, bench.widest))
    silent = " (nothing before)"
    told = "".join(f", {form} {share[form]:.2f}{silent * (form not in telling)}" for form in forms if len(forms) > 1)
    return Measure(
        n=sum(map(len, now[worst].asked)),
        value=value,
        interval=(value - t * error, value + t * error),
        allowed=(None if over_margin is None else -over_margin, margin),
        p=min(1.0, judged.p * (len(forms) if alone else 1)),
        power=_power(margin / error, np.inf if over_margin is None else over_margin / error, t, judged.df),
        note=f"; place {judged.rank} of {judged.num_strangers + 1} beside the people the model never saw{told}",
        seen=_seen(scores, model, bench, judged, margin) if len(forms) == 1 else None,
        alarms=judged.alarms(margin * yardstick, bench.alpha),
    )


def _by_form(scores: Callable[[Reading], Scores], model: Evidence, bench: Bench) -> dict[str, Beside]:
    asked, strangers = (scores(model.readings[name]) for name in PeopleCheck.strangers)
    hard = [scores(bench.base.readings[name]) for name in PeopleCheck.strangers] if bench.base else None
    people = (bench.people["forget"], bench.people["holdout"])
    found = {}
    for form, values in asked.items():
        hardness = (hard[0][form], hard[1][form]) if hard and form in hard[0] and form in hard[1] else None
        if form in strangers and (both := beside(values, strangers[form], people, bench.rng(), hardness)):
            found[form] = both
    return found


def _sticks_out(asked: Beside, alpha: float) -> bool:
    """Whether those who asked are known better than strangers."""
    return asked.excess > 0 and asked.p < alpha


def _power(high: float, low: float, t: float, df: int) -> float:
    """Chance that a stranger's interval, t standard errors to either side, lies within -low to high of them."""
    return float(max(0.0, stats.t.cdf(high - t, df) - stats.t.cdf(t - low, df)))


def _seen(
    scores: Callable[[Reading], Scores], model: Evidence, bench: Bench, now: Beside, margin: float
) -> float | None:
    """Share of draws in which a person who stays, taken for the one who asked, fails; None where they were not read.

    Their rows are taken as they are: a base model adapted to them is no measure of how hard they were.
    """
    assert bench.before is not None
    if "retain" not in model.readings:
        return None
    stay, stayed, strangers = (
        next(iter(scores(evidence.readings[name]).values()))
        for evidence, name in ((model, "retain"), (bench.before, "retain"), (bench.before, "holdout"))
    )
    level = float(by_person_means(strangers, bench.people["holdout"]).mean())
    rng, size = bench.rng(), round(float(np.mean([len(rows) for rows in now.asked])))
    found = []
    for rows, rows_before in zip(*(by_person(v, bench.people["retain"]) for v in (stay, stayed)), strict=True):
        drawn = chosen(len(rows), size, rng)
        learned = rows_before[drawn].mean(1) - level
        found.append(now.seen(rows[drawn].mean(1) - now.mean, margin * learned, bench.alpha))
    return float(np.mean(found)) if found else None
