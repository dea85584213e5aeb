"""A state that several processes have written: whole after any kill, and read by any number of them."""

import os
from itertools import accumulate, count
from pathlib import Path

import pytest
import torch

from sau.models.ranks import ALONE
from sau.training.resume import Resume, Standing
from tests.together import several

ROWS, SURVIVORS = 7, {1: [11], 2: [9, 2], 3: [4, 0, 7]}
"""Of one matrix; the survivors lie so that other processes cut them elsewhere."""


def place(folder, ranks=ALONE):
    return Resume(folder / "resume", "these", every_s=0.0, ranks=ranks)


def tensors_of(rank, size, step):
    """What one of so many processes has after a step."""
    ends = [*accumulate(SURVIVORS[size], initial=0)]
    rows = torch.arange(ROWS).chunk(size)
    return {
        "weights/a": rows[rank][:, None] + torch.tensor([0.0, 0.5]) + 100 * step,
        "best/0": rows[rank].float(),
        "moments/a/0": torch.arange(ends[rank], ends[rank + 1]) + 100.0 * step,
        "moments/a/2": torch.tensor(float(step)),
        "objective/seen": torch.arange(5.0) + step,
        "generators/cpu": torch.tensor([rank, step], dtype=torch.uint8),
    }


def sizes_of(tensors):
    return {name: len(value) for name, value in tensors.items() if value.dim()}


def writing(folder, *steps, leave=lambda rank: None):
    def work(ranks):
        leave(ranks.rank)
        for step in steps:
            place(folder, ranks).offer(
                lambda step=step: Standing(tensors_of(ranks.rank, ranks.size, step), {"step": step})
            )

    return work


def check(found, rank, size, step, written_by):
    expected = tensors_of(rank, size, step) | {"generators/cpu": torch.tensor([rank % written_by, step])}
    assert found.numbers == {"step": step}
    assert found.tensors.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.tensors.items())


def reading(folder):
    def work(ranks):
        return place(folder, ranks).read(sizes_of(tensors_of(ranks.rank, ranks.size, 0)))

    return work


@pytest.mark.parametrize("written_by", [1, 2, 3])
def test_any_number_goes_on_from_what_any_number_has_written(tmp_path, written_by):
    if written_by == 1:
        writing(tmp_path, 1, 2)(ALONE)
    else:
        several(written_by, writing(tmp_path, 1, 2), tmp_path / "forks")
    assert len(list((tmp_path / "resume").glob("*.safetensors"))) == written_by, (
        "one file each, those of before are gone"
    )
    check(place(tmp_path).read(), 0, 1, 2, written_by)
    for size in (2, 3):
        for rank, found in enumerate(several(size, reading(tmp_path), tmp_path / "forks")):
            check(found, rank, size, 2, written_by)


def test_moments_in_eight_bits_are_read_by_as_many_as_have_written_them_and_by_no_others(tmp_path):
    """Blocks end where a process's numbers do, and what is too short for blocks on one may not be on another."""

    def written(ranks):
        names = ["blocks/a/0", "blocks/a/1"] if ranks.rank else ["moments/a/0"]
        state = Standing({name: torch.arange(3) for name in names}, {"step": 1})
        place(tmp_path, ranks).offer(lambda: state, last=True)
        return sorted(place(tmp_path, ranks).read().tensors)

    assert several(2, written, tmp_path / "forks") == [["moments/a/0"], ["blocks/a/0", "blocks/a/1"]]
    assert place(tmp_path).read() is None


def test_a_state_of_other_sizes_or_with_a_damaged_file_is_passed_over_by_all(tmp_path):
    several(2, writing(tmp_path, 1), tmp_path / "forks")

    def other(ranks):
        return place(tmp_path, ranks).read({"weights/a": 3, "best/0": 3, "moments/a/0": 3})

    assert several(3, other, tmp_path / "forks") == [None] * 3
    for path in (tmp_path / "resume").glob("*.safetensors"):
        whole = path.read_bytes()
        for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), None):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            assert place(tmp_path).read() is None
            if damaged is None:
                assert several(2, reading(tmp_path), tmp_path / "forks") == [None] * 2
        path.write_bytes(whole)
    check(place(tmp_path).read(), 0, 1, 1, 2)


@pytest.mark.parametrize(
    ("whom", "at", "left"), [(0, 0, None), (0, 1, None), (0, 2, 1), (0, 3, 1), (1, 0, None), (1, 1, 1)]
)
def test_whoever_is_killed_at_whichever_rename_one_whole_state_is_there(tmp_path, monkeypatch, whom, at, left):
    """The first renames its tensors and the numbers, the second its tensors, twice each."""
    real = Path.replace

    def leave(rank):
        done = count()

        def replace(self, target):
            return os._exit(9) if rank == whom and next(done) == at else real(self, target)

        monkeypatch.setattr(Path, "replace", replace)

    ends = (1, 9) if whom else (9, 0 if at == 3 else 1)  # nothing is left to do for the second after the last
    several(2, writing(tmp_path, 1, 2, leave=leave), tmp_path / "forks", ends=ends)
    found = place(tmp_path).read()
    if left is None:
        assert found is None
    else:
        check(found, 0, 1, left, 2)
