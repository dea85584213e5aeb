"""Distances to retraining by hand, and which run a user would choose."""

import math

import numpy as np
import pytest

from sau.benchmark import Reading, distances, encoded, goal_gap, load_rows, mean_target, rank, read
from sau.checkpoint.sparse import open_model


def reading(forget: float, retain: float, auc: float, *rows: float) -> Reading:
    return Reading(forget, retain, holdout_prob=0.4, auc=auc, forget_prob_N=np.array(rows))


def test_distances_by_hand():
    before = reading(0.9, 0.8, 0.99, 0.9, 0.9)
    known = {
        "original": before,
        "retrained": reading(0.3, 0.8, 0.4, 0.2, 0.4),
        "retrained-again": reading(0.5, 0.8, 0.6, 0.4, 0.6),
    }
    target = mean_target(known, {"original": 1.0, "retrained": 0.4, "retrained-again": 0.6})
    found = distances(reading(0.3, 0.6, 0.7, 0.3, 0.3), 0.9, before=before, target=target)
    assert found["average_distance"] == pytest.approx((0.1 + 0.2) / 2)
    assert found["forget_distance"] == pytest.approx((0.1 + 0.2 + 0.4) / 3)
    assert found["record_distance"] == pytest.approx(math.sqrt((0 + 0.2**2) / 2))
    assert found["utility"] == pytest.approx(0.75)
    assert found["distance_to_retrain"] == pytest.approx(math.hypot(0.7 / 3, 0.25))
    better = distances(reading(0.4, 0.9, 0.5, 0.3, 0.5), 0.5, before=before, target=target)
    assert better["utility"] > 1
    assert better["distance_to_retrain"] == pytest.approx(0.0)  # more utility than retrained is no distance
    unranked = distances(reading(0.3, 0.9, 0.7, 0.3, 0.3), None, before=before, target=target)
    assert unranked["distance_to_retrain"] == pytest.approx(unranked["average_distance"])
    assert "forget_distance" not in unranked


def test_a_user_prefers_what_is_near_the_goal_among_models_that_are_still_useful():
    before = reading(0.9, 0.8, 0.99)
    useful_far, useful_near, useless_near, useless = (
        rank(reading(0.4, retain, 0.5), before, gap)
        for retain, gap in ((0.8, 0.3), (0.73, 0.1), (0.7, 0.0), (0.1, 0.0))
    )
    assert sorted([useless, useless_near, useful_far, useful_near]) == [useful_near, useful_far, useless_near, useless]
    # What retain rows lose counts as well, what they gain does not.
    costly, free, better = (
        rank(reading(0.4, retain, 0.5), before, gap) for retain, gap in ((0.76, 0.05), (0.8, 0.1), (0.85, 0.1))
    )
    assert costly == (False, pytest.approx(math.hypot(0.4 * 0.05, 0.05)))
    assert costly > free == better


def test_a_model_that_never_saw_the_rows_is_nearer_to_the_goal(spec, prepared):
    folder, prompt = prepared[0], spec.params.model.prompt
    base = open_model(folder / "base-adapted", prompt=prompt)
    original, retrained = (open_model(folder / name, prompt=prompt) for name in ("original", "retrained"))
    sets = encoded(original, load_rows(spec, "demo", 0))
    known = read(base, sets)
    assert goal_gap(read(retrained, sets), known) < 0.5 * goal_gap(read(original, sets), known)
