"""The statistics of the battery: ranks, bootstrap over records, Holm, exact binomial bounds. Numpy in, floats out."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
NUM_BOOTSTRAP = 12_000
"""Enough that the smallest p, times the 43 checks of the strict policy (Holm), is below its 1%."""


def auc(members: Array, others: Array) -> float:
    """Chance that a random member scores above a random other, ties half (Mann-Whitney); [N], [M] -> [0, 1]."""
    return float(wins(members, others).mean())


def wins(members: Array, others: Array) -> Array:
    """[N, M]: 1 where the member scores above the other, 0.5 where they tie, 0 below."""
    difference_NM = members[:, None] - others[None, :]
    return (np.sign(difference_NM) + 1.0) / 2.0


@lru_cache(maxsize=4)
def resamples(n: int, seed: int) -> Array:
    """Bootstrap weights [NUM_BOOTSTRAP, n]: how often each record is drawn, divided by n; read-only."""
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=NUM_BOOTSTRAP) / n
    weights.flags.writeable = False
    return weights


def interval(draws: Array, alpha: float) -> tuple[float, float]:
    """The central 1 - 2 alpha percentile interval, the one two one-sided tests at level alpha look at (TOST)."""
    low, high = np.quantile(draws, [alpha, 1.0 - alpha])
    return float(low), float(high)


def p_against(draws: Array, null: float) -> float:
    """Two-sided bootstrap p-value that the statistic is `null`; never below 2 / (draws + 1)."""
    below, above = (draws <= null).sum(), (draws >= null).sum()
    return float(min(1.0, 2.0 * (min(below, above) + 1) / (draws.size + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p-values, in the order given (family-wise error)."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    worst = 0.0
    for step, index in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - step) * p_values[index]))
        adjusted[index] = worst
    return [float(p) for p in adjusted]


def clopper_pearson(successes: int, trials: int, alpha: float) -> tuple[float, float]:
    """Exact one-sided bounds at level alpha, both sides: no success in n gives the upper bound 1 - alpha^(1/n)."""
    found = stats.binomtest(successes, trials).proportion_ci(confidence_level=1.0 - 2 * alpha, method="exact")
    return float(found.low), float(found.high)


def tost_power(low: float, high: float, standard_error: float, alpha: float) -> float:
    """Chance that a true difference of 0 is shown to lie in (low, high): Phi(high/se - z) - Phi(low/se + z)."""
    if standard_error <= 0:
        return 1.0
    z = stats.norm.ppf(1.0 - alpha)
    power = stats.norm.cdf(high / standard_error - z) - stats.norm.cdf(low / standard_error + z)
    return float(max(0.0, power))
