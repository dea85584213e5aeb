"""Dividing people: who is spared, and that nobody is in two places."""

import pytest

from sau.data.sets import spared

ROWS = [{"subject_id": f"p{person}"} for person in range(15) for _ in range(3)]
ASKS = [{"subject_id": "asks"}]
SHARES = [(0.2, 15, 3), (0.2, 5, 1), (0.2, 2, 0), (0.5, 1, 0), (0.0, 15, 0)]


@pytest.mark.parametrize(
    ("share", "people", "number"), [(0.2, 15, 3), (0.2, 5, 1), (0.2, 2, 0), (0.5, 1, 0), (0.0, 15, 0)]
)
def test_a_share_of_the_people_is_spared_and_somebody_is_shown(share, people, number):
    rows = [row for row in ROWS if int(row["subject_id"][1:]) < people]
    assert len(spared(rows, ASKS, share, 0)) == number


def test_other_people_are_spared_for_another_request():
    first = spared(ROWS, ASKS, 0.2, 0)
    assert first == spared(ROWS[::-1], ASKS, 0.2, 0)
    chosen = [spared(ROWS, [{"subject_id": f"asks-{n}"}], 0.2, 0) for n in range(20)]
    assert len(set(chosen)) > 10
    assert len(frozenset().union(*chosen)) == 15, "nobody is always shown, and nobody always spared"
    assert frozenset.intersection(*chosen) == frozenset()
