"""Is the true answer ranked among equally plausible ones as chance would have it? (exposure, arXiv 1802.08232)

Each record's true answer and its decoys are ordered by the model's log-probability. To a model that never saw the
record, the true answer's place is uniform: the test is exact for a single record,

    p_i = (1 + #decoys at least as likely) / (R_i + 1)

and needs no reference. Where decoys are not exact (free text), or relearning has shown the true answers, what is ranked
is how much likelier an answer is than to the model that never saw the records (and relearned alike); without one
such a record is left out. Records are pooled by a permutation
test on -sum log p_i, in which every one of the R_i + 1 answers takes a turn as the true one. The number shown is the
mean share of decoys that are less likely than the true answer: 0.5 by chance, 1 where it always comes first; far below
0.5 is over-unlearning.
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy import stats

from sau.verify.checks.base import (
    POWER,
    Array,
    Bench,
    Check,
    Control,
    Evidence,
    Extra,
    Measure,
    NoPowerError,
    NothingToShowError,
)
from sau.verify.metrics.base import checked_values
from sau.verify.stats import tost_power

PERMUTATIONS = 9999
_CHANCE_STD = 12**-0.5


def p_if_true(scores: Array) -> Array:
    """[R + 1]: for each answer the exact p-value if it were the true one; ties count against forgetting."""
    return np.array([(scores >= score).mean() for score in scores])


def pooled_p(scores: tuple[Array, ...], rng: np.random.Generator) -> float:
    """One-sided permutation p-value that the true answers [0] rank no higher than the decoys [1:]."""
    observed, null = 0.0, np.zeros(PERMUTATIONS)
    for row in scores:
        surprise = -np.log(p_if_true(row))
        observed += surprise[0]
        null += surprise[rng.integers(len(row), size=PERMUTATIONS)]
    return float((1 + (null >= observed - 1e-9).sum()) / (PERMUTATIONS + 1))


def place(scores: Array) -> float:
    """Share of decoys that are less likely than the true answer, ties half; 0.5 by chance."""
    return float(((scores[0] > scores[1:]) + 0.5 * (scores[0] == scores[1:])).mean())


def comparable_scores(model: Evidence, bench: Bench, min_decoys: int) -> tuple[Array, ...]:
    """Per record with enough decoys the scores to rank: [0] of the true answer, [1:] of the decoys.

    Raises:
        NoPowerError, NothingToShowError: there is no such record; the latter where there is no reference by design.
        DivergedError: a score is not finite.
    """
    usable = []
    for index, (scores, exact) in enumerate(zip(model.decoys, model.exact, strict=True)):
        compared = bench.taught or not exact
        if len(scores) <= min_decoys or (compared and bench.reference is None):
            continue
        if compared and bench.reference is not None:
            unseen = bench.reference.decoys[index]  # after a stressor fewer decoys are read, the first ones
            shared = min(len(scores), len(unseen))
            scores = scores[:shared] - unseen[:shared]
        usable.append(checked_values(scores, "decoys"))
    if not usable:
        nothing = f"no record has {min_decoys} decoys that this check can use"
        raise NothingToShowError(nothing) if bench.null == "population" else NoPowerError(nothing)
    return tuple(usable)


def _widened(spread: float, alpha: float) -> float:
    """The margin that a place by chance passes with a probability of `POWER`."""
    return float(stats.norm.ppf(1 - alpha) + stats.norm.ppf(POWER)) * spread


class DecoyRankCheck(Check):
    """Mean place between 0.5 - over_margin and 0.5 + margin; wider for few rows and after a stressor, where the policy
    says so."""

    name: Literal["decoy_rank"] = "decoy_rank"
    title: ClassVar[str] = "Decoy ranking"
    question: ClassVar[str] = "place of the true answer among made-up ones (0.5 = chance, 1 = always first)"
    extra: ClassVar[Extra | None] = "decoys"
    uses: ClassVar[frozenset[Control]] = frozenset()
    sets: ClassVar[tuple[str, ...]] = ()

    margin: float = Field(0.25, gt=0, lt=0.5)
    over_margin: float = Field(0.4, gt=0, lt=0.5)
    min_decoys: int = Field(19, ge=1)

    def measure(self, model: Evidence, bench: Bench) -> Measure:
        usable = comparable_scores(model, bench, self.min_decoys)
        rng = bench.rng()
        leak, over = pooled_p(usable, rng), pooled_p(tuple(-scores for scores in usable), rng)
        places = np.array([place(scores) for scores in usable])
        # Never narrower than chance's own spread: few records that happen to agree are no precision.
        spread = max(_CHANCE_STD, float(places.std(ddof=1)) if len(places) > 1 else 0.0) / len(places) ** 0.5
        half = float(stats.norm.ppf(1 - bench.alpha)) * spread
        mean = float(places.mean())
        margin = max(self.margin + bench.slack / 2, min(_widened(spread, bench.alpha), bench.widest / 2))
        return Measure(
            n=len(usable),
            value=mean,
            interval=(max(0.0, mean - half), min(1.0, mean + half)),
            allowed=(0.5 - self.over_margin, 0.5 + margin),
            p=min(1.0, 2 * min(leak, over)),
            power=tost_power(-self.over_margin, margin, spread, bench.alpha),
            note=f"; {sum(p_if_true(s)[0] <= bench.alpha for s in usable)} of {len(usable)} true answers are in the "
            f"top {bench.alpha:.0%} of their decoys",
        )
