"""Unlearning on several processes beside one: the same losses, mask and statistics, a part of the memory, one end."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sau.errors import ConfigError
from sau.models.ranks import ALONE, Ranks
from sau.training.resume import Resume
from sau.training.session import micro_batches
from sau.unlearn.unlearn import UnlearnParams
from tests.together import CASES, ran, several

ROOT = Path(__file__).resolve().parents[3]


def started_by(processes: int, folder: Path, *cases: str) -> "subprocess.CompletedProcess[str]":
    """The cases on so many processes of their own."""
    starter = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(starter if processes > 1 else []), "-m", "tests.together", str(folder), *cases]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=800, check=False)


def check_same(one: dict, several: dict) -> None:
    assert several["mask"] == one["mask"]
    assert several["steps"] == one["steps"]
    assert len(several["trajectory"]) == len(one["trajectory"])
    for expected, reading in zip(one["trajectory"], several["trajectory"], strict=True):
        for key, value in expected.items():
            tolerance = 1e-4 if key == "gradient_norm" else 1e-5
            around_zero = 1e-6 if key == "held_loss" else 1e-7  # a difference of log-probabilities, some 1e-3 here
            assert reading[key] == pytest.approx(value, rel=tolerance, abs=around_zero), (reading["step"], key)
    for name, expected in one["statistics"].items():
        assert (several["statistics"][name] - expected).abs().max() <= 1e-6 * expected.abs().max(), name


def test_two_processes_take_the_steps_of_one(tmp_path):
    """Uneven rows, clipping by the norm over both, `natural`, forked so that nothing is imported anew."""
    both, _ = several(2, lambda ranks: ran(CASES["clipped"], ranks), tmp_path)
    torch.set_num_threads(1)
    alone = ran(CASES["clipped"], ALONE)
    check_same(alone, both)
    # Past the clip of every step there is no other difference than the order of sums.
    assert max(float((both["weights"][n] - w).abs().max()) for n, w in alone["weights"].items()) < 2e-4


def test_parts_of_a_batch_are_as_many_on_every_process_and_count_each_row_once():
    for num_rows in range(1, 8):
        for size in (None, 1, 2):
            rows, parts = list(range(num_rows)), []
            for rank in range(3):
                ranks = Ranks()
                ranks.rank, ranks.size = rank, 3
                parts.append(list(micro_batches(rows, size, ranks)))
                assert all(part for part, _ in parts[-1]), "nobody goes through the model without a row"
            assert len({len(part) for part in parts}) == 1
            counted = sorted(row for part in parts for rows_, share in part if share for row in rows_)
            assert counted == rows
            assert sum(share for part in parts for _, share in part) == pytest.approx(1)


def test_what_is_dealt_is_dealt_once_and_in_step_to_all_as_often():
    ranks = [Ranks() for _ in range(3)]
    for number, one in enumerate(ranks):
        one.rank, one.size = number, 3
    for length in range(6):
        for in_step in (False, True):
            dealt = []
            for one in ranks:
                one.in_step = in_step
                dealt.append(list(one.deal(range(length))))
            assert sorted(item for items in dealt for item, counts in items if counts) == list(range(length))
            assert not in_step or len({len(items) for items in dealt}) == 1
            assert in_step or all(counts for items in dealt for _, counts in items)


def test_a_model_on_one_process_is_not_unlearned_as_one_on_two(loop, lm):
    params = UnlearnParams(lr=1e-3, max_steps=1, processes=2)
    with pytest.raises(ConfigError, match="processes 2: this model is on 1"):
        loop(lm, params)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What came of every case, by number of processes."""
    folder = tmp_path_factory.mktemp("together")
    for processes, more in ((1, ()), (2, ("resumed",)), (3, ())):
        cases = CASES if processes < 3 else ("usual", "empty", "n-of-m")
        done = started_by(processes, folder, *cases, *more)
        assert done.returncode == 0, done.stderr[-3000:]
    return lambda case, processes: torch.load(folder / f"{case}-{processes}.pt", weights_only=False), folder


@pytest.mark.long
@pytest.mark.parametrize("case", [name for name in CASES if name != "bfloat16"])
def test_two_processes_are_as_one(found, case):
    check_same(found[0](case, 1), found[0](case, 2))


@pytest.mark.long
@pytest.mark.parametrize("case", ["usual", "empty", "n-of-m"])
def test_three_processes_are_as_one(found, case):
    """Of 32 rows, 32, 65 and 1: one process has none of some matrices."""
    check_same(found[0](case, 1), found[0](case, 3))


@pytest.mark.long
def test_the_stop_rule_decides_alike_on_all(found):
    one, two = (found[0]("usual", processes) for processes in (1, 2))
    assert len({reading.get("lr") for reading in one["trajectory"]}) > 2, "the stop rule changed nothing"
    assert [r.get("lr") for r in one["trajectory"]] == [r.get("lr") for r in two["trajectory"]]


@pytest.mark.long
def test_each_process_holds_its_part(found):
    """Weights, gradients, moments and mask, at a step of a case without statistics of inputs."""
    for processes in (1, 2):
        assert len(found[0]("rows", processes)["held"]) == processes
    (whole,), parts = (found[0]("rows", processes)["held"] for processes in (1, 2))
    assert max(parts) < 0.6 * whole, (whole, parts)


@pytest.mark.long
def test_one_process_knows_nothing_of_several(found):
    assert [found[0]("usual", processes)["sharding"] for processes in (1, 2)] == [False, True]


@pytest.mark.long
def test_bfloat16_keeps_its_zeros_on_two_processes(found):
    """Which are checked at the end on each of them; each draws its own rounding, so losses are not those of one."""
    one, two = (found[0]("bfloat16", processes) for processes in (1, 2))
    assert one["mask"] == two["mask"]
    assert two["trajectory"][-1]["loss"] == pytest.approx(one["trajectory"][-1]["loss"], rel=0.01)


@pytest.mark.long
def test_two_that_were_killed_go_on_with_the_same_bits(found):
    through, resumed = found[0]("usual", 2), found[0]("resumed", 2)
    assert through["trajectory"] == resumed["trajectory"]
    assert all(torch.equal(through["weights"][name], value) for name, value in resumed["weights"].items())


@pytest.mark.long
def test_one_goes_on_from_what_two_have_written(found):
    state = Resume(found[1] / "left", "these", every_s=1e9)
    assert state.read().numbers["step"] == 2
    check_same(found[0]("usual", 1), ran(CASES["usual"], ALONE, state))


@pytest.mark.long
def test_where_one_is_killed_the_other_ends(tmp_path):
    begun = time.monotonic()
    done = started_by(2, tmp_path, "killed")
    assert done.returncode != 0
    assert "exitcode  : -9" in done.stderr, done.stderr[-3000:]
    assert time.monotonic() - begun < 300, "the other waits for the one that is gone"
    assert not list(tmp_path.glob("*.pt"))
