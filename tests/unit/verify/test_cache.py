"""Readings that are kept: the same again, and never those of anything else."""

import copy
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from sau.models.autocast import set_autocast
from sau.verify.evidence.cache import Cache
from sau.verify.evidence.readings import read

PARTS = frozenset({"forms", "exits"})


@pytest.fixture
def lm(small):
    return small()


@pytest.fixture
def rows(strangers):
    return strangers[:6]


class Counting:
    """Takes readings, and counts how many."""

    def __init__(self):
        self.taken = 0

    def __call__(self, cache, lm, rows, *what):
        def take():
            self.taken += 1
            return read(lm, rows, PARTS, strangers=rows)

        return cache.reading(lm, rows, take, *what)


def same(one, other):
    def equal(a, b):
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(np.array_equal(a[k], b[k], equal_nan=True) for k in a)
        return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b

    answers = all(
        np.array_equal(getattr(a, field.name), getattr(b, field.name))
        for a, b in zip(one.answer, other.answer, strict=True)
        for field in fields(a)
    )
    others = [field.name for field in fields(one) if field.name != "answer"]
    return answers and all(equal(getattr(one, name), getattr(other, name)) for name in others)


def test_a_reading_that_was_kept_is_the_same_to_the_bit_and_taken_once(tmp_path, lm, rows):
    reading, cache = Counting(), Cache(tmp_path / "kept")
    first = reading(cache, lm, rows)
    assert same(reading(Cache(tmp_path / "kept"), lm, rows), first)
    assert reading.taken == 1
    (kept,) = (tmp_path / "kept").iterdir()
    assert kept.stat().st_mode & 0o077 == 0
    texts = [row[name].encode() for row in rows for name in ("question", "answer", "subject_id")]
    assert not any(text in kept.read_bytes() for text in texts)


def test_whatever_a_reading_follows_from_makes_it_another_one(tmp_path, lm, rows):
    reading, cache = Counting(), Cache(tmp_path)
    reading(cache, lm, rows)
    moved = replace(lm, model=copy.deepcopy(lm.model))
    with torch.no_grad():
        next(moved.model.parameters()).view(-1)[0] += 1e-3
    rounded = replace(lm, model=copy.deepcopy(lm.model))
    set_autocast(rounded.model, True)
    prompted = replace(lm, prompt="Q: {question}\nA:")
    for changed in (moved, rounded, prompted):
        reading(cache, changed, rows)
    reading(cache, lm, rows[:5])
    reading(cache, lm, [*rows[:5], rows[5] | {"paraphrased_answer": "Nobody says so."}])
    reading(cache, lm, rows, "another part")
    assert reading.taken == 7
    reading(cache, lm, rows)
    assert reading.taken == 7


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no archive", None])
def test_a_damaged_file_counts_as_none_and_is_made_anew(tmp_path, lm, rows, damage):
    reading, cache = Counting(), Cache(tmp_path)
    first = reading(cache, lm, rows)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:-100] if damage is None else damage)
    assert same(reading(cache, lm, rows), first)
    reading(cache, lm, rows)
    assert reading.taken == 2


def test_where_nothing_can_be_kept_it_is_read_again(tmp_path, lm, rows):
    (tmp_path / "kept").write_text("a file in the folder's place")
    for cache in (Cache(tmp_path / "kept"), Cache()):
        reading = Counting()
        assert same(reading(cache, lm, rows), reading(cache, lm, rows))
        assert reading.taken == 2


def test_old_readings_make_room_for_new_ones(tmp_path, lm, rows):
    reading, cache = Counting(), Cache(tmp_path)
    for number in range(34):
        reading(cache, lm, rows[:1], number)
    assert len(list(tmp_path.iterdir())) == 32
    reading(cache, lm, rows[:1], 33)
    assert reading.taken == 34
