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

from sau.data.records import Row
from sau.verify.stats import auc, interval, resamples, wins

Array = NDArray[np.float64]

_FOLDS = 5


_MAX_WORDS = 2000


def blind_baseline(forget: Sequence[Row], holdout: Sequence[Row], *, limit: float, seed: int) -> tuple[float, bool]:
    """(cross-validated AUC, whether it is above `limit` beyond doubt); (0.5, False) below 5 records a side."""
    from sklearn.linear_model import LogisticRegression  # scikit-learn takes a second to load
    from sklearn.model_selection import PredefinedSplit, cross_val_predict

    if min(len(forget), len(holdout)) < _FOLDS:
        return 0.5, False
    features_NW = word_features([*forget, *holdout])
    if not features_NW.size:  # no word is anybody's but one's own
        return 0.5, False
    label_N = np.array([1] * len(forget) + [0] * len(holdout))
    rng = np.random.default_rng(seed)
    folds = PredefinedSplit(np.concatenate([_folds(forget, rng), _folds(holdout, rng)]))
    # Ridge of 1 on standardised loss; without an intercept, which only moves all scores alike.
    classifier = LogisticRegression(C=0.5, fit_intercept=False, class_weight="balanced", tol=1e-8, max_iter=1000)
    score_N = cross_val_predict(classifier, features_NW, label_N, cv=folds, method="decision_function")
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
    from sklearn.feature_extraction.text import CountVectorizer

    texts = [f"{row['question']} {row['answer']}" for row in rows]
    if not any(re.search(r"\w", text) for text in texts):
        return np.zeros((len(rows), 0))
    vectorizer = CountVectorizer(binary=True, token_pattern=r"\w+", dtype=np.float64)
    present_NW = vectorizer.fit_transform(texts).toarray()
    subject_N = np.array([row["subject_id"] for row in rows])
    with_it_SW = np.array([present_NW[subject_N == subject].any(0) for subject in np.unique(subject_N)])
    (shared,) = np.nonzero(with_it_SW.sum(0) > 1)  # columns are in order of the word
    order = np.argsort(-present_NW.sum(0)[shared], kind="stable")
    return present_NW[:, shared[order][:_MAX_WORDS]]
