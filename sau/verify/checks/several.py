"""Base of the checks that ask for the same fact in several ways, each with its share of what had been learned.

Beside a retrained model, for each way

    share = mean_i (l_i - l_i^ref) / mean_i (l_i^before - l_i^ref)

with l the mean log-probability per answer token, over the records that can be put so. Where the model before gave away
too little in a way to measure, the denominator is what it gave away as asked: a model may have been taught to tell
everything in a way that it was never asked in; such a way counts only where it is beyond the margin beyond doubt. The
worst of them is judged, all on the same resampled records. Beside people the model never saw, those are asked in the
same ways, and their answers take the place of the reference's (`sau.verify.checks.people`).
"""

from typing import ClassVar

import numpy as np
from pydantic import Field

from sau.verify.checks.base import Array, Bench, Control, Evidence, Measure, NoPowerError
from sau.verify.checks.people import PeopleCheck, share_left
from sau.verify.evidence.readings import Reading
from sau.verify.metrics.base import checked_values, token_means
from sau.verify.stats import interval, p_against, resamples, tost_power

_SURE = 0.5
"""What had been learned is measured where it is at least this share of its estimate, beyond doubt."""
_AS_ASKED = "as asked"


class SeveralWays(PeopleCheck):
    """The largest share that is left, at most `margin`; beside people the model never saw the mean over all ways, at
    most `share`, and no way beyond it by itself beyond doubt."""

    uses: ClassVar[frozenset[Control]] = frozenset({"before", "reference"})
    sets: ClassVar[tuple[str, ...]] = ("forget",)

    margin: float = Field(0.5, gt=0, lt=1)

    def ways(self, reading: Reading) -> dict[str, Array]:
        """By title of a way other than as asked, mean log-probabilities [N]; NaN where a record cannot be put so."""
        raise NotImplementedError

    def beside_strangers(self, model: Evidence, bench: Bench) -> Measure:
        return share_left(self._by_form, model, bench, margin=self.share, over_margin=None)

    def beside_retrained(self, model: Evidence, bench: Bench) -> Measure:
        assert bench.before is not None
        assert bench.reference is not None
        assert bench.reference_as_stored is not None
        after, before, reference, untouched = (
            self._by_form(evidence.readings["forget"])
            for evidence in (model, bench.before, bench.reference, bench.reference_as_stored)
        )
        weights = resamples(len(after[_AS_ASKED]), bench.seed)
        learned = {title: _mean(weights, before[title] - untouched[title]) for title in before}
        left = {title: _mean(weights, after[title] - reference[title]) for title in before if title != _AS_ASKED}
        if not _measured(learned[_AS_ASKED], bench.alpha):
            raise NoPowerError("the model before unlearning knows the records no better than one that never saw them")
        against = {title: title if _measured(learned[title], bench.alpha) else _AS_ASKED for title in left}
        shares = {title: left[title][0] / learned[against[title]][0] for title in left}
        drawn = {title: left[title][1] / learned[against[title]][1] for title in left}
        telling = [t for t in left if against[t] == t or interval(drawn[t], bench.alpha)[0] > self.margin] or list(left)
        worst = max(telling, key=shares.__getitem__)
        draws = np.max([drawn[title] for title in telling], axis=0)
        told = ", ".join(f"{title} {share:.2f}" for title, share in shares.items())
        return Measure(
            n=int(np.isfinite(after[worst]).sum()),
            value=shares[worst],
            interval=interval(draws, bench.alpha),
            allowed=(None, self.margin),
            p=p_against(left[worst][1], 0.0),
            power=tost_power(-np.inf, self.margin, float(draws.std()), bench.alpha),
            note=f"; {told}",
        )

    def _by_form(self, reading: Reading) -> dict[str, Array]:
        found = {_AS_ASKED: checked_values(token_means(reading), self.name)}
        for title, values in self.ways(reading).items():
            if not np.isnan(values).all():
                checked_values(values[~np.isnan(values)], self.name)
                found[title] = values
        return found


def _mean(weights: Array, values: Array) -> tuple[float, Array]:
    """(mean, its bootstrap draws) over the records that have a value."""
    there = ~np.isnan(values)
    share = weights[:, there].sum(1)
    draws = weights[:, there] @ values[there] / np.where(share > 0, share, 1.0)
    return float(values[there].mean()), draws


def _measured(learned: tuple[float, Array], alpha: float) -> bool:
    mean, draws = learned
    return mean > 0 and bool(draws.min() > 0) and interval(draws, alpha)[0] >= _SURE * mean
