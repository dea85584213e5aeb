"""A run that was killed goes on where it was and ends with the same bits, whatever it was in the middle of."""

import copy
import json
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path

import pytest
import torch

from sau.data.sets import Sets
from sau.registry import discover
from sau.training.finetune import FinetuneParams, finetune
from sau.training.resume import Resume, Standing
from sau.unlearn.objectives.base import Objective
from sau.unlearn.redistribution.base import Redistribution
from sau.unlearn.remembering import Remembering
from sau.unlearn.stop import StopParams
from sau.unlearn.unlearn import UnlearnParams, unlearn

OBJECTIVES = {name: {"name": name} for name in discover(Objective, "sau.unlearn.objectives")}
OBJECTIVES["pdu"]["eps"] = 1.0
OBJECTIVES["calibrated"]["refresh"] = 2
REDISTRIBUTIONS = sorted(discover(Redistribution, "sau.unlearn.redistribution"))
CELLS = [(objective, "importance") for objective in OBJECTIVES] + [("calibrated", name) for name in REDISTRIBUTIONS]
USUAL = {("calibrated", "natural"), ("pdu", "importance")}
STOP = StopParams(eval_every=1, margin_nats=-10.0, utility_floor=0.99, patience=1)


class Killed(Exception):
    """Stands for the end of the process."""


def killing(last):
    """What is called after each step, and is the process's end after step `last`."""

    def progress(step, total, values):
        if step == last:
            raise Killed

    return progress


@pytest.fixture(scope="module")
def few(sets):
    return Sets(sets.forget[:6], sets.retain[:6], sets.holdout[:4])


def place(folder, inputs="these"):
    return Resume(folder / "resume", inputs, every_s=0.0)


def ended(start, few, params, resume, *, base=None, last=None):
    """A copy of the model after the run, and its history; None where it was killed."""
    lm = copy.deepcopy(start)
    try:
        history = unlearn(
            lm, few, params, seed=0, num_threads=1, base=base, resume=resume, progress=last and killing(last)
        )
    except Killed:
        return None
    return lm, history


def check_same(one, other):
    (lm, history), (again, second) = one, other
    assert (history.steps, history.stopped, history.trajectory) == (second.steps, second.stopped, second.trajectory)
    for (name, value), after in zip(lm.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(value.view(torch.int32), after.view(torch.int32)), name


def test_moments_in_eight_bits_go_on_with_the_same_bits(pruned, few, tmp_path, monkeypatch):
    monkeypatch.setattr("sau.training.eight_bit.LEAST", 64)
    params = UnlearnParams(lr=1e-3, max_steps=4, batch_size=2, stop=None, optimizer_state="8bit")
    through = ended(pruned, few, params, None)
    assert ended(pruned, few, params, place(tmp_path), last=2) is None
    state = place(tmp_path).read()
    assert {name.rpartition("/")[2] for name in state.below("blocks")} == set("01234")
    check_same(through, ended(pruned, few, params, place(tmp_path)))


@pytest.mark.parametrize(
    ("objective", "redistribution"),
    [pytest.param(*cell, marks=[] if cell in USUAL else pytest.mark.long) for cell in dict.fromkeys(CELLS)],
)
def test_every_method_goes_on_with_the_same_bits(pruned, few, tmp_path, objective, redistribution):
    params = UnlearnParams(
        objective=OBJECTIVES[objective], redistribution=redistribution, lr=1e-3, max_steps=5, batch_size=4, stop=None
    )
    whole = ended(pruned, few, params, None)
    assert ended(pruned, few, params, place(tmp_path), last=4) is None
    assert place(tmp_path).read().numbers["step"] == 3
    check_same(whole, ended(pruned, few, params, place(tmp_path)))


def test_who_was_forgotten_before_is_kept_so_after_a_kill_as_before_it(pruned, few, sets, tmp_path):
    several = replace(few, earlier=sets.retain[6:11])
    params = UnlearnParams(objective=OBJECTIVES["calibrated"], lr=1e-3, max_steps=5, batch_size=4, stop=None)
    whole = ended(pruned, several, params, None)
    assert ended(pruned, several, params, place(tmp_path), last=4) is None
    check_same(whole, ended(pruned, several, params, place(tmp_path)))


@pytest.mark.parametrize(
    ("order", "last"),
    [
        ("prune-unlearn", 5),
        *(pytest.param("prune-unlearn", last, marks=pytest.mark.long) for last in (2, 7)),
        *(pytest.param("unlearn-prune", last, marks=pytest.mark.long) for last in (2, 5, 7)),
    ],
)
def test_the_stop_rule_goes_on_too(pruned, trained, few, tmp_path, order, last):
    """With a goal out of reach it changes learning rate and weights again and again."""
    start = copy.deepcopy(pruned)
    if order == "unlearn-prune":
        start.model = copy.deepcopy(trained.model)
    params = UnlearnParams(
        order=order, fade_steps=3, objective="calibrated", lr=2e-3, max_steps=8, batch_size=4, stop=STOP,
        adapt={"epochs": 1, "lr": 1e-3, "batch_size": 4},
    )  # fmt: skip
    whole = ended(start, few, params, None, base=trained)
    assert len({reading.get("lr") for reading in whole[1].trajectory}) > 2, "the stop rule changed nothing"
    assert ended(start, few, params, place(tmp_path), base=trained, last=last) is None
    check_same(whole, ended(start, few, params, place(tmp_path), base=trained))


def test_a_run_that_was_over_is_not_run_again(pruned, few, tmp_path):
    params = UnlearnParams(objective="npo", lr=1e-3, max_steps=3, batch_size=4, stop=None)
    whole = ended(pruned, few, params, place(tmp_path))
    check_same(whole, ended(pruned, few, params, place(tmp_path), last=1))


@pytest.mark.parametrize("last", [1, 4, 6])
def test_finetuning_goes_on_with_the_same_bits(pruned, few, tmp_path, last, weights, same):
    params = FinetuneParams(epochs=3, lr=1e-3, batch_size=3)

    def made(resume, progress=None):
        lm = copy.deepcopy(pruned)
        try:
            history = finetune(
                lm, lm.encode(few.retain), params, seed=3, num_threads=1, resume=resume, progress=progress
            )
        except Killed:
            return None
        return weights(lm), history.trajectory

    whole = made(None)
    assert made(place(tmp_path), killing(last)) is None
    weights_, trajectory = made(place(tmp_path))
    assert same(whole[0], weights_)
    assert trajectory == whole[1]


def test_a_state_of_other_inputs_or_a_damaged_one_is_passed_over(pruned, few, tmp_path):
    params = UnlearnParams(objective="npo", lr=1e-3, max_steps=3, batch_size=4, stop=None)
    ended(pruned, few, params, place(tmp_path), last=3)
    assert place(tmp_path).read() is not None
    assert place(tmp_path, "others").read() is None
    (tensors,) = (tmp_path / "resume").glob("*.safetensors")
    whole = tensors.read_bytes()
    for damaged in (whole[:-1], whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]):
        tensors.write_bytes(damaged)
        assert place(tmp_path).read() is None
    check_same(ended(pruned, few, params, None), ended(pruned, few, params, place(tmp_path)))


class Full(Exception):
    """Stands for a full disk."""


def test_whenever_a_kill_comes_one_whole_state_is_there(pruned, few, tmp_path, monkeypatch):
    params = UnlearnParams(objective="npo", lr=1e-3, max_steps=3, batch_size=4, stop=None)
    real = Path.replace
    left = []
    for number in range(5):  # of the renames of two states
        done = count()

        def replace(self, target, number=number, done=done):
            if next(done) == number:
                raise Full
            return real(self, target)

        monkeypatch.setattr(Path, "replace", replace)
        with pytest.raises(Full):
            ended(pruned, few, params, Resume(tmp_path / str(number), "these", every_s=0.0))
        monkeypatch.undo()
        found = Resume(tmp_path / str(number), "these").read()
        left.append(found and found.numbers["step"])
    assert left == [None, None, 1, 1, 2]


def test_a_state_is_written_when_it_is_time_and_costs_little(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("sau.training.resume.time.monotonic", lambda: clock[0])
    resume, written = Resume(tmp_path / "r", "these", every_s=30.0), []

    def state():
        clock[0] += 4.0  # a slow disk
        written.append(clock[0])
        return place(tmp_path).read() or _nothing()

    for _ in range(400):
        clock[0] += 1.0
        resume.offer(state)
    assert written[0] == 34.0
    assert all(b - a >= 80 for a, b in pairwise(written)), "a twentieth of the time at most"
    assert json.loads((tmp_path / "r" / "state.json").read_text())["inputs"] == "these"


def _nothing():
    return Standing({"a": torch.zeros(1)}, {})


def test_a_state_that_cannot_be_looked_into_is_said_so():
    class Odd:
        pass

    with pytest.raises(TypeError, match="Odd"):
        Remembering({"a": Odd()})
