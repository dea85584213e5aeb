"""The blind baseline: can words alone, without any model, tell the forget from the holdout records?

Where they can, a membership score may only have noticed the difference in text, and its result is void
(arXiv 2406.16201). The classifier is a logistic regression on the presence of words, cross-validated. A word that
occurs with one subject only (a name, mostly) says who a record is about, not which side it is on, and is left out, and
folds hold whole subjects where there are several: otherwise one person's records would always be told apart.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from sau.data.records import Row
from sau.verify.stats import auc, interval, resamples, wins

Array = NDArray[np.float64]

_FOLDS = 5

_RIDGE = 1.0

_MAX_WORDS = 2000


def blind_baseline(forget: Sequence[Row], holdout: Sequence[Row], *, limit: float, seed: int) -> tuple[float, bool]:
    """(cross-validated AUC, whether it is above `limit` beyond doubt); (0.5, False) below 5 records a side."""
    if min(len(forget), len(holdout)) < _FOLDS:
        return 0.5, False
    features_NW = word_features([*forget, *holdout])
    label_N = np.array([1.0] * len(forget) + [0.0] * len(holdout))
    score_N = np.zeros(len(label_N))
    rng = np.random.default_rng(seed)
    fold_N = np.concatenate([_folds(forget, rng), _folds(holdout, rng)])
    for fold in np.unique(fold_N):
        held = fold_N == fold
        weights = fit_logistic(features_NW[~held], label_N[~held])
        score_N[held] = features_NW[held] @ weights
    members, others = score_N[label_N == 1], score_N[label_N == 0]
    table = wins(members, others)
    draws = ((resamples(len(members), seed) @ table) * resamples(len(others), seed + 1)).sum(-1)
    return auc(members, others), interval(draws, 0.025)[0] > limit


def _folds(rows: Sequence[Row], rng: np.random.Generator) -> NDArray[np.int_]:
    """The fold of each row [N]: a subject's rows share one, as a person's topics are no shift between the sets; with
    one subject only, rows are spread."""
    subjects = sorted({row["subject_id"] for row in rows})
    if len(subjects) == 1:
        return rng.permutation(len(rows)) % _FOLDS
    fold_of = dict(zip(subjects, rng.permutation(len(subjects)) % min(_FOLDS, len(subjects)), strict=True))
    return np.array([fold_of[row["subject_id"]] for row in rows])


def word_features(rows: Sequence[Row]) -> Array:
    """Presence of each word that occurs with more than one subject [N, W], the most frequent 2000."""
    words = [set(re.findall(r"\w+", f"{row['question']} {row['answer']}".lower())) for row in rows]
    subjects: dict[str, set[str]] = {}
    for row, its in zip(rows, words, strict=True):
        for word in its:
            subjects.setdefault(word, set()).add(row["subject_id"])
    shared = {word for word, who in subjects.items() if len(who) > 1}
    count = {word: sum(word in its for its in words) for word in shared}
    vocabulary = sorted(shared, key=lambda word: (-count[word], word))[:_MAX_WORDS]
    return np.array([[float(word in its) for word in vocabulary] for its in words])


def fit_logistic(features_NW: Array, label_N: Array) -> Array:
    """Weights [W] of a ridge logistic regression, classes balanced."""
    share = label_N.mean()
    weight_N = np.where(label_N == 1, 0.5 / share, 0.5 / (1 - share)) / len(label_N)
    sign_N = 2 * label_N - 1

    def loss(weights: Array) -> tuple[float, Array]:
        margin_N = sign_N * (features_NW @ weights)
        value = (weight_N * np.logaddexp(0, -margin_N)).sum() + _RIDGE / len(label_N) * (weights @ weights)
        gradient = -(weight_N * sign_N * expit(-margin_N)) @ features_NW + 2 * _RIDGE / len(label_N) * weights
        return float(value), gradient

    return np.asarray(minimize(loss, np.zeros(features_NW.shape[1]), jac=True, method="L-BFGS-B").x)
