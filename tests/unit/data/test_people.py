"""Ids of people: what is one id and what is two, and what an internal one says of whom it stands for."""

import pytest

from sau.data.people import INTERNAL, canonical, drawn, people_of, published
from sau.errors import DataError


@pytest.mark.parametrize(
    ("one", "other"),
    [(77, "77"), (77.0, "77"), ("J\u00f6rg", "Jo\u0308rg"), (" p.a@example.org ", "p.a@example.org"), (0, "0")],
)
def test_one_id_in_two_spellings_is_one_person(one, other):
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"), [("Alice", "alice"), ("p.a", "p-a"), ("7", "07"), ("Jörg", "Jorg"), ("a b", "ab")]
)
def test_two_ids_stay_two_people(one, other):
    assert canonical(one) != canonical(other)


@pytest.mark.parametrize("bad", ["", " ", "a\n", "\na", "a\tb", "a\u2028b", "\ud800", "x" * 1025, True, 1.5, None, [1]])
def test_what_is_no_id_is_refused_and_not_quoted(bad):
    with pytest.raises(DataError, match="malformed id") as refused:
        canonical(bad)
    assert "xxx" not in str(refused.value)


def test_an_internal_id_is_random():
    first, second = drawn(["alice", "bob"]), drawn(["alice", "bob"])
    assert len({*first.values(), *second.values()}) == 4
    assert all(INTERNAL.match(internal) for internal in first.values())


def test_published_people_have_the_same_ids_everywhere_and_in_their_order():
    ids = published(["b", "c", "a"])
    assert ids == published(["a", "b", "c"])
    assert list(ids) == ["a", "b", "c"]
    assert sorted(ids.values()) == list(ids.values())
    assert all(INTERNAL.match(internal) for internal in ids.values())


def test_whom_a_row_is_about():
    assert people_of({"subject_id": None}) == []
    assert people_of({"subject_id": "a", "subject_ids": []}) == ["a"]
    assert people_of({"subject_id": "a", "subject_ids": ["a", "b"]}) == ["a", "b"]
