"""The unlearning run: what it moves, what decides its result, how it fades a mask in, divergence and refusals."""

import copy
from dataclasses import replace

import pytest
import torch

from sau.errors import ConfigError, DataError, DivergedError, SparsityError
from sau.mask import check_mask
from sau.models.batches import collate
from sau.training.optimizer import SurvivorAdamW
from sau.unlearn.objectives.calibrated import Calibrated
from sau.unlearn.objectives.grad_ascent import GradAscent
from sau.unlearn.stop import StopParams
from sau.unlearn.unlearn import mean_answer_logp, unlearn


def test_a_run_that_is_not_watched_gives_the_same_weights(params, loop, weights, same, pruned):
    models = [copy.deepcopy(pruned) for _ in range(3)]
    unwatched = loop(models[0], params(max_steps=4, stop=None), watch=False)
    watched = loop(models[1], params(max_steps=4, stop=None))
    assert unwatched.trajectory == []
    assert [entry["step"] for entry in watched.trajectory] == [0, 4]
    assert same(weights(models[0]), weights(models[1]))
    # A stop rule has to see where it is, whoever is watching.
    assert loop(models[2], params(max_steps=4, stop=StopParams(eval_every=2)), watch=False).trajectory


def test_dense_model_is_unlearned_densely(params, loop, weights, same, trained):
    lm = copy.deepcopy(trained)
    before = weights(lm)
    history = loop(lm, params(redistribution="importance"))
    assert lm.mask is None
    assert history.trajectory[-1]["forget_logp"] < history.trajectory[0]["forget_logp"]
    assert not same(before, weights(lm))


def test_frozen_embeddings_and_gradients_are_put_back(params, loop, lm):
    embedding = lm.model.get_input_embeddings().weight.clone()
    loop(lm, params())
    assert torch.equal(lm.model.get_input_embeddings().weight, embedding)
    assert all(p.requires_grad and p.grad is None for p in lm.model.parameters())


def test_seed_decides_and_nothing_else_does(params, loop, weights, same, pruned):
    results = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        lm = copy.deepcopy(pruned)
        torch.manual_seed(noise)
        loop(lm, params(objective={"name": "rmu", "block": 1}), seed=seed)
        results.append(weights(lm))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_gradient_difference_without_its_retain_term_is_gradient_ascent(params, loop, weights, same, pruned):
    results = []
    for objective, alpha in (("grad_diff", 0.0), ("grad_ascent", 1.0)):
        lm = copy.deepcopy(pruned)
        loop(lm, params(objective=objective, alpha=alpha))
        results.append(weights(lm))
    assert same(*results)


def test_gamma_weighs_forget_and_alpha_weighs_retain(params, loop, pruned):
    def change(**weights: float) -> tuple[float, float]:
        lm = copy.deepcopy(pruned)
        first, last = loop(lm, params(objective="grad_diff", max_steps=8, lr=2e-3, **weights)).trajectory
        return last["forget_logp"] - first["forget_logp"], last["retain_logp"] - first["retain_logp"]

    assert change(gamma=0.0, alpha=1.0)[1] > 0  # retain only: ordinary finetuning
    assert change(gamma=1.0, alpha=0.0)[0] < -0.5
    assert change(gamma=1.0, alpha=5.0)[1] > change(gamma=1.0, alpha=0.1)[1]


def test_progress_sees_every_step(params, loop, lm):
    seen = []
    loop(lm, params(max_steps=3), progress=lambda step, total, values: seen.append((step, total, sorted(values))))
    keys = ["forget_loss", "gradient_norm", "loss", "retain_loss"]
    assert seen == [(i, 3, keys) for i in (1, 2, 3)]


# -- who was forgotten before ---------------------------------------------------------------------


def test_who_was_forgotten_before_is_brought_back_to_where_strangers_are(params, sets, weights, same, trained, pruned):
    losses, made = {}, {}
    for name, earlier, hold in (
        ("nobody", [], 2.0),
        ("left alone", sets.retain[:8], 0.0),
        ("kept", sets.retain[:8], 2.0),
    ):
        lm, losses[name] = copy.deepcopy(pruned), []
        unlearn(
            lm,
            replace(sets, retain=sets.retain[8:], earlier=earlier),  # whom this model still knows
            params(objective="calibrated", max_steps=8, hold=hold, batch_size=8),
            seed=0,
            base=trained,
            progress=lambda step, total, values, name=name: losses[name].append(values.get("earlier_loss")),
        )
        made[name] = weights(lm)
    assert losses["nobody"] == losses["left alone"] == [None] * 8
    assert same(made["nobody"], made["left alone"])
    assert losses["kept"][-1] < 0.6 * losses["kept"][0]


def test_an_objective_that_would_push_them_on_and_on_leaves_them_alone(params, sets, weights, same, pruned):
    made = []
    for earlier in ([], sets.retain[:8]):
        lm = copy.deepcopy(pruned)
        unlearn(lm, replace(sets, earlier=earlier), params(objective="npo"), seed=0)
        made.append(weights(lm))
    assert same(*made)


def test_of_many_who_were_forgotten_before_some_rows_are_used(params, sets, pruned, monkeypatch):
    used = []
    real = Calibrated.start
    monkeypatch.setattr(
        Calibrated, "start", lambda self, setting: used.append(setting.num_earlier) or real(self, setting)
    )
    for most in (3, 100):
        several = replace(sets, earlier=sets.retain[:8])
        unlearn(copy.deepcopy(pruned), several, params(objective="calibrated", max_held_rows=most), seed=0)
    assert used == [3, 8]


# -- divergence and refusals ----------------------------------------------------------------------


def test_divergence_names_step_and_objective_and_touches_no_weight(params, loop, weights, same, lm, monkeypatch):
    taken = {}

    def forget_loss(self, forget, state):
        if forget_loss.calls == 2:
            taken.update(weights(lm))
        forget_loss.calls += 1
        return -forget.mean_nll * (float("nan") if forget_loss.calls == 3 else 1.0)

    forget_loss.calls = 0
    monkeypatch.setattr(GradAscent, "forget_loss", forget_loss)
    with pytest.raises(DivergedError, match=r"^step 3, objective grad_ascent: the loss is nan$"):
        loop(lm, params(objective="grad_ascent"))
    assert same(taken, weights(lm))
    assert all(p.requires_grad and p.grad is None for p in lm.model.parameters())


def test_infinite_gradient_is_refused_before_the_step(params, loop, weights, same, lm, monkeypatch):
    def forget_loss(self, forget, state):
        return (forget.mean_nll - forget.mean_nll.detach()).abs().sqrt()  # 0, with an infinite slope

    before = weights(lm)
    monkeypatch.setattr(GradAscent, "forget_loss", forget_loss)
    with pytest.raises(DivergedError, match=r"step 1, objective grad_ascent: the gradient's norm is nan"):
        loop(lm, params(objective="grad_ascent"))
    assert same(before, weights(lm))


@pytest.mark.parametrize(
    ("redistribution", "message"),
    [
        ("none", None),
        ("importance", r"^step 1, objective \w+: the forget term's gradient of .*q_proj.weight is not finite$"),
        ("compensated", r"^step 1, objective \w+: the gradient of .*q_proj.weight is not finite$"),
    ],
)
def test_infinite_gradient_of_a_pruned_weight_is_refused_where_it_would_be_redistributed(
    params, loop, weights, same, lm, redistribution, message
):
    name = next(name for name in lm.mask if name.endswith("q_proj.weight"))
    lm.model.get_parameter(name).register_hook(lambda gradient: gradient.masked_fill(~lm.mask[name], float("inf")))
    before = weights(lm)
    if message is None:
        loop(lm, params(redistribution=redistribution))
        assert all(p.isfinite().all() for p in lm.model.parameters())
    else:
        with pytest.raises(DivergedError, match=message):
            loop(lm, params(redistribution=redistribution))
        assert same(before, weights(lm))


@pytest.mark.parametrize("empty", ["forget", "retain", "holdout"])
def test_empty_sets_are_refused(params, lm, sets, empty):
    with pytest.raises(DataError, match=f"the {empty} set is empty"):
        unlearn(lm, replace(sets, **{empty: []}), params(), seed=0)


def test_model_off_its_mask_is_refused(params, loop, lm):
    name = next(iter(lm.mask))
    with torch.no_grad():
        lm.model.get_parameter(name).neg_()  # pruned weights are -0.0 now
    with pytest.raises(SparsityError, match=r"pruned weights are not \+0.0"):
        loop(lm, params())


def test_objective_that_may_move_nothing_is_refused(params, loop, lm, monkeypatch):
    monkeypatch.setattr(GradAscent, "trains", lambda self, parameter, model: False)
    with pytest.raises(ConfigError, match="none of this model's parameters may move"):
        loop(lm, params(objective="grad_ascent"))


# -- learning rate and fading ---------------------------------------------------------------------


def test_without_a_stop_rule_the_rate_falls_to_zero(params, loop, lm, monkeypatch):
    rates = []
    step = SurvivorAdamW.step

    def watched(self, *, lr, **options):
        rates.append(lr)
        return step(self, lr=lr, **options)

    monkeypatch.setattr(SurvivorAdamW, "step", watched)
    history = loop(lm, params(max_steps=4, lr=0.004))
    assert rates == pytest.approx([0.004, 0.003, 0.002, 0.001])
    assert history.trajectory[-1]["lr"] == pytest.approx(0.001)


def interrupt(*_) -> None:
    raise KeyboardInterrupt


def test_what_the_mask_takes_fades_away_while_survivors_unlearn(params, loop, sets, fading):
    sequences = fading.encode(sets.forget)
    before = mean_answer_logp(fading, sequences)
    readings = []
    parameters = params(order="unlearn-prune", fade_steps=2, max_steps=4)
    history = loop(fading, parameters, progress=lambda *_: readings.append(mean_answer_logp(fading, sequences)))
    check_mask(fading.model, fading.mask)
    assert history.trajectory[0]["forget_logp"] == pytest.approx(before, abs=1e-4)
    # Gone by the second step: leaving changes nothing any more.
    assert mean_answer_logp(fading, sequences) == readings[3]
    assert history.trajectory[-1]["forget_logp"] == pytest.approx(readings[3], abs=1e-5)
    halfway = copy.deepcopy(fading)
    with pytest.raises(KeyboardInterrupt):
        loop(halfway, parameters, progress=interrupt)
    check_mask(halfway.model, halfway.mask)
    assert abs(mean_answer_logp(halfway, sequences) - readings[0]) > 0.01


def test_fading_takes_no_more_steps_than_there_are(params):
    with pytest.raises(ValueError, match="fade_steps 20: at most max_steps, 4"):
        params(order="unlearn-prune")
    assert params().fade_steps == 20


def test_a_pass_over_many_rows_is_no_more_steps_and_no_more_memory(params, loop, pruned, sets, monkeypatch):
    """Half of the rows to forget in each step, in parts of a batch."""
    half, seen, lengths = -(-len(sets.forget) // 2), [], []
    assert half > 4
    monkeypatch.setattr("sau.unlearn.step.collate", lambda rows: lengths.append(len(rows)) or collate(rows))
    for sizes in ({"batch_size": half}, {"batch_size": 4, "max_pass_steps": 2}):
        lengths.clear()
        steps = []
        loop(
            copy.deepcopy(pruned), params(lr=1e-4, max_steps=3, **sizes), watch=False,
            progress=lambda _step, _of, values, to=steps: to.append(values),
        )  # fmt: skip
        seen.append(steps)
        assert max(lengths) == sizes["batch_size"]
    for whole, parts in zip(*seen, strict=True):
        assert parts == pytest.approx(whole, rel=2e-4, abs=1e-6)
