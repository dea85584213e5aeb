"""The stop rule: when a run has done enough, what it takes back, and how hard it goes on."""

import copy
import json
import math

import pytest
import torch

from sau.mask import check_mask, mask_digest
from sau.pruners import PruneParams, prune
from sau.training.finetune import FinetuneParams, finetune
from sau.training.optimizer import SurvivorAdamW
from sau.unlearn.stop import Frontier, StopParams
from sau.unlearn.unlearn import mean_answer_logp


def test_unlearning_stops_at_the_holdout_and_records_the_way(params, loop, sets, trained):
    lm = copy.deepcopy(trained)
    prune(lm, lm.encode(sets.retain), PruneParams(pruner="sparsegpt", sparsity=0.3))
    finetune(lm, lm.encode(sets.forget + sets.retain), FinetuneParams(epochs=25, lr=0.004), seed=1, num_threads=1)
    digest = mask_digest(lm.mask)
    gap = mean_answer_logp(lm, lm.encode(sets.forget)) - mean_answer_logp(lm, lm.encode(sets.holdout))
    margin = 0.6 * gap  # memorised rows stand out; close some of that
    stop = StopParams(eval_every=2, margin_nats=margin, utility_floor=0.0, overshoot_nats=9.0)
    history = loop(lm, params(max_steps=60, lr=5e-4, stop=stop, redistribution="importance"))
    last = history.trajectory[-1]
    assert history.stopped == "target"
    assert history.steps == last["step"] < 60
    assert gap > 0.5
    assert [entry["step"] for entry in history.trajectory] == list(range(0, history.steps + 1, 2))
    assert last["forget_logp"] == pytest.approx(mean_answer_logp(lm, lm.encode(sets.forget)), rel=1e-4)
    reached = [entry["forget_logp"] <= entry["holdout_logp"] + margin for entry in history.trajectory]
    assert reached == [False] * (len(reached) - 1) + [True]
    assert {"loss", "forget_loss", "retain_loss", "gradient_norm", "retain_logp"} <= last.keys()
    assert json.loads(json.dumps(history.as_dict()))["stopped"] == "target"
    check_mask(lm.model, lm.mask)
    assert mask_digest(lm.mask) == digest


def test_margin_moves_the_target(params, loop, lm):
    history = loop(lm, params(stop=StopParams(eval_every=1, margin_nats=10.0)))
    assert (history.stopped, history.steps) == ("target", 1)


def test_a_far_too_large_learning_rate_is_taken_back_and_the_best_state_is_kept(params, loop, sets, trained):
    lm = copy.deepcopy(trained)
    before = mean_answer_logp(lm, lm.encode(sets.retain))
    stop = StopParams(eval_every=1, utility_floor=0.9, max_changes=6)
    history = loop(lm, params(objective="calibrated", max_steps=40, lr=0.1, stop=stop))
    floor = before + math.log(0.9)
    assert min(entry["retain_logp"] for entry in history.trajectory) < floor  # it did break
    assert mean_answer_logp(lm, lm.encode(sets.retain)) >= floor - 1e-4  # and did not stay broken
    lrs = [entry["lr"] for entry in history.trajectory[1:]]
    assert min(lrs) < 0.1
    assert history.steps in [entry["step"] for entry in history.trajectory]
    left = next(entry for entry in history.trajectory if entry["step"] == history.steps)
    assert mean_answer_logp(lm, lm.encode(sets.forget)) == pytest.approx(left["forget_logp"], rel=1e-3)


def test_too_little_weight_on_the_retain_rows_is_raised_until_the_goal_is_in_reach(params, loop, sets, trained):
    lm = copy.deepcopy(trained)
    stop = StopParams(eval_every=2, utility_floor=0.9, margin_nats=0.1)
    parameters = {"objective": "calibrated", "lr": 5e-3, "max_steps": 80}
    before = mean_answer_logp(lm, lm.encode(sets.retain))
    history = loop(lm, params(alpha=0.05, stop=stop, **parameters))
    alphas = [entry["alpha"] for entry in history.trajectory[1:]]
    assert alphas == sorted(alphas)
    assert alphas[0] == 0.05 < 0.2 <= alphas[-1]
    assert history.stopped == "target"
    assert mean_answer_logp(lm, lm.encode(sets.retain)) >= before + math.log(0.9) - 1e-4


def test_a_far_too_small_learning_rate_is_raised(params, loop, trained):
    lm = copy.deepcopy(trained)
    stop = StopParams(eval_every=1, patience=2)
    history = loop(lm, params(objective="calibrated", max_steps=12, lr=1e-7, stop=stop))
    lrs = [entry["lr"] for entry in history.trajectory[1:]]
    assert lrs == sorted(lrs)
    assert lrs[-1] >= 8e-7


def test_without_a_stop_rule_all_steps_are_taken(params, loop, lm):
    history = loop(lm, params(max_steps=5))
    assert (history.stopped, history.steps) == ("max_steps", 5)
    assert [entry["step"] for entry in history.trajectory] == [0, 5]


def test_no_state_is_judged_that_still_has_what_will_go(params, loop, fading):
    stop = StopParams(eval_every=1, margin_nats=10.0, overshoot_nats=100.0, utility_floor=0.0)
    history = loop(fading, params(order="unlearn-prune", fade_steps=3, max_steps=8, stop=stop))
    assert (history.stopped, history.steps) == ("target", 3)
    assert [reading["step"] for reading in history.trajectory] == [0, 3]


def test_a_floor_that_fading_breaks_does_not_bring_back_the_dense_survivors(params, loop, sets, fading):
    stop = StopParams(eval_every=1, utility_floor=1.0)
    history = loop(fading, params(order="unlearn-prune", fade_steps=3, max_steps=6, lr=1e-4, stop=stop))
    before, *after = history.trajectory
    assert all(reading["retain_logp"] < before["retain_logp"] for reading in after)  # it did break
    check_mask(fading.model, fading.mask)
    left = next(reading for reading in after if reading["step"] == history.steps)
    assert mean_answer_logp(fading, fading.encode(sets.retain)) == pytest.approx(left["retain_logp"], abs=1e-4)


# -- the frontier by itself ------------------------------------------------------------------------


def frontier(**stop) -> tuple[Frontier, torch.nn.Parameter]:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer, before = SurvivorAdamW([("w", weight)], {}), reading(-0.1)
    return Frontier(StopParams(**stop), optimizer, [weight], before, lr=1.0, alpha=1.0, max_steps=99, to_fade=1), weight


def reading(forget: float, *, target: float = -2.0, retain: float = -0.1) -> dict[str, float]:
    return {"forget_logp": forget, "target_logp": target, "retain_logp": retain}


def test_the_goal_ends_it_and_its_state_is_the_one_kept():
    watch, weight = frontier()
    advice = []
    for step, forget in enumerate((-0.1, -1.0, -2.1)):
        weight.data.fill_(step)
        advice.append(watch.advise(step, reading(forget)))
    assert advice == ["go on", "go on", "done"]
    assert (watch.num_steps, watch.state[0].item()) == (2, 2.0)


def test_broken_utility_goes_back_to_the_best_state_that_kept_it():
    watch, weight = frontier(utility_floor=0.9)
    for step, (forget, retain) in enumerate(((-0.1, -0.1), (-0.8, -0.15), (-1.9, -0.1 + math.log(0.8)))):
        weight.data.fill_(step)
        advice = watch.advise(step, reading(forget, retain=retain))
    assert advice == "protect"
    watch.restore()
    assert (watch.num_steps, weight.item()) == (1, 1.0)


def test_reaching_the_goal_with_broken_utility_is_not_done():
    watch, _ = frontier(utility_floor=0.9)
    watch.advise(0, reading(-0.1))
    assert watch.advise(1, reading(-2.0, retain=-1.0)) == "protect"


def test_a_leap_beyond_the_goal_goes_back():
    watch, _ = frontier(overshoot_nats=0.5)
    watch.advise(0, reading(-0.1))
    assert watch.advise(1, reading(-2.6)) == "back"


def test_no_progress_asks_for_more_until_changes_are_used_up():
    watch, _ = frontier(patience=2, max_changes=2)
    assert [watch.advise(step, reading(-0.1)) for step in range(8)] == [
        "go on", "go on", "harder", "go on", "go on", "harder", "go on", "go on",
    ]  # fmt: skip


def test_rows_that_were_never_known_are_done_at_once():
    watch, _ = frontier()
    watch.advise(0, reading(-9.0))
    assert watch.advise(1, reading(-9.1)) == "done"
