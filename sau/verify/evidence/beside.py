"""One who asked beside strangers: scores per person, adjusted for how hard their rows are, and the spread of the null.

Shape suffixes: D draws, M strangers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

_DRAWS = 100
_TINY = 1e-12  # scores that are all the same have no spread
_FEWEST = 3


@dataclass(frozen=True)
class Beside:
    """Scores of those who asked and of strangers, higher where the model knows somebody better.

    Attributes:
        asked: of each person who asked, their rows' scores.
        strangers_DM: of each stranger, means of so many rows as were asked, drawn D times.
        df: degrees of freedom of the strangers' spread.
        leverage: how far the hardness of the asked rows is from the strangers', as a part of the variance.
    """

    asked: tuple[Array, ...]
    strangers_DM: Array
    df: int
    leverage: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Strangers, and the rows of each who asked."""
        return self.num_strangers, *map(len, self.asked)

    @property
    def num_strangers(self) -> int:
        return self.strangers_DM.shape[1]

    def has_the_people_of(self, other: "Beside") -> bool:
        """Whether as many asked, and as many strangers are there, as in another form."""
        return (len(self.asked), self.num_strangers) == (len(other.asked), other.num_strangers)

    @property
    def mean(self) -> float:
        """Of the strangers."""
        return float(self.strangers_DM.mean())

    @property
    def spread(self) -> float:
        """Standard deviation of a stranger's mean, never 0."""
        squares = self.strangers_DM.var(axis=1).mean() * self.num_strangers
        return max(float(np.sqrt(squares / self.df)), _TINY)

    @property
    def excess(self) -> float:
        """How much better than the strangers those who asked are known, in the score's units."""
        return float(np.mean([rows.mean() for rows in self.asked])) - self.mean

    @property
    def error(self) -> float:
        """Standard error of `excess` where those who asked are strangers, too."""
        return self.spread * float(np.sqrt(1 / len(self.asked) + 1 / self.num_strangers + self.leverage))

    @property
    def p(self) -> float:
        """Two-sided, of `excess` being that of a stranger."""
        return 2 * float(stats.t.sf(abs(self.excess) / self.error, self.df))

    @property
    def rank(self) -> int:
        """1 + the strangers that are known at least as well."""
        return 1 + int((self.strangers_DM.mean(axis=0) >= self.excess + self.mean).sum())

    def alarms(self, threshold: float, alpha: float) -> float:
        """Share of draws in which a stranger, taken for the one who asked, is known better by more than `threshold` and
        with a p below `alpha`."""
        found = []
        for i in range(self.num_strangers):
            others_DM = np.delete(self.strangers_DM, i, axis=1)
            excess_D = self.strangers_DM[:, i] - others_DM.mean(1)
            found.append(_beyond(excess_D, threshold, others_DM.std(axis=1, ddof=1), others_DM.shape[1], alpha))
        return float(np.mean(found))

    def seen(self, excess: Array, threshold: Array, alpha: float) -> Array:
        """Whether each of some people is known better than the strangers by more than `threshold`, with a p below
        `alpha`."""
        return _beyond(excess, threshold, np.array(self.spread), self.num_strangers, alpha)


def _beyond(excess: Array, threshold: Array | float, spread: Array, num_strangers: int, alpha: float) -> Array:
    error = np.maximum(spread * np.sqrt(1 + 1 / num_strangers), _TINY)
    return (excess > threshold) & (2 * stats.t.sf(np.abs(excess) / error, num_strangers - 1) < alpha)


def together(parts: Sequence[tuple[Beside, float]]) -> Beside:
    """The mean of several forms, each of the same people and divided by its scale."""
    people = range(len(parts[0][0].asked))
    return Beside(
        tuple(np.mean([[part.asked[i].mean() / scale] for part, scale in parts], axis=0) for i in people),
        np.mean([part.strangers_DM / scale for part, scale in parts], axis=0),
        min(part.df for part, _ in parts),
        max(part.leverage for part, _ in parts),
    )


def beside(
    asked: Array,
    strangers: Array,
    people: tuple[Sequence[int], Sequence[int]],
    rng: np.random.Generator,
    hardness: tuple[Array, Array] | None = None,
) -> Beside | None:
    """Rows' scores [N] of those who asked beside those of strangers.

    Args:
        asked, strangers: NaN where a row has none.
        people: per row, whom it is about.
        hardness: of both, what a model that saw none of them makes of the rows: the strangers' regression line on it is
            taken off (analysis of covariance, one degree of freedom less).

    Returns:
        None where nobody who asked has a score, or fewer than three strangers have one.
    """
    df, leverage = -1, 0.0
    if hardness is not None:
        x, y = (by_person_means(values, people[1]) for values in (hardness[1], strangers))
        if x.shape == y.shape and len(x) > _FEWEST and x.std() > _TINY:
            slope, centre = float(np.polyfit(x, y, 1)[0]), float(x.mean())
            asked, strangers = asked - slope * (hardness[0] - centre), strangers - slope * (hardness[1] - centre)
            distance = float(by_person_means(hardness[0], people[0]).mean()) - centre
            df, leverage = -2, distance**2 / float(((x - centre) ** 2).sum())
    mine, theirs = by_person(asked, people[0]), by_person(strangers, people[1])
    if not mine or len(theirs) < _FEWEST:
        return None
    size = max(1, round(float(np.mean([len(rows) for rows in mine]))))
    drawn = [rows[chosen(len(rows), size, rng)].mean(1) for rows in theirs]
    return Beside(mine, np.stack(drawn, axis=1), len(theirs) + df, leverage)


def chosen(num_rows: int, size: int, rng: np.random.Generator) -> NDArray[np.int_]:
    """[D, size]: row numbers drawn without replacement, D times; all of them where there are fewer."""
    return rng.permuted(np.tile(np.arange(num_rows), (_DRAWS, 1)), axis=1)[:, : max(size, 1)]


def by_person(values: Array, people: Sequence[int]) -> tuple[Array, ...]:
    """The scores of each person who has any."""
    person, there = np.asarray(people), ~np.isnan(values)
    return tuple(values[there & (person == p)] for p in np.unique(person[there]))


def by_person_means(values: Array, people: Sequence[int]) -> Array:
    """The mean score of each person who has any."""
    return np.array([rows.mean() for rows in by_person(values, people)])
