"""The training loop: optimizer on survivors, stop rule, divergence, determinism."""

import copy
import json
import math

import pytest
import torch
from torch import Tensor, nn

from sau.data.demo import demo_rows
from sau.errors import ConfigError, DataError, DivergedError, SparsityError
from sau.mask import check_mask, mask_digest
from sau.models.batches import Encoded
from sau.models.language_model import LanguageModel
from sau.models.sources import ModelParams, TinyParams, base_model
from sau.pruners import PruneParams, prune
from sau.training.finetune import FinetuneParams, finetune
from sau.training.optimizer import SurvivorAdamW
from sau.training.session import batches
from sau.unlearn.objectives.grad_ascent import GradAscent
from sau.unlearn.stop import StopParams
from sau.unlearn.unlearn import UnlearnParams, mean_answer_logp, unlearn

FORGET, RETAIN, HOLDOUT = (demo_rows(name, seed=1) for name in ("forget", "retain", "holdout"))


@pytest.fixture(scope="module")
def trained() -> LanguageModel:
    tiny = TinyParams(vocab_size=320, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2)
    lm = base_model(ModelParams(tiny=tiny), seed=0)
    finetune(lm, lm.encode(FORGET + RETAIN), FinetuneParams(epochs=12, lr=0.005), seed=0, num_threads=1)
    return lm


@pytest.fixture(scope="module")
def pruned(trained) -> LanguageModel:
    lm = copy.deepcopy(trained)
    prune(lm, lm.encode(RETAIN), PruneParams(pruner="wanda"))
    return lm


@pytest.fixture
def lm(pruned) -> LanguageModel:
    return copy.deepcopy(pruned)


def params(**changes) -> UnlearnParams:
    base = {"objective": "npo", "redistribution": "none", "lr": 1e-3, "max_steps": 4, "batch_size": 8, "stop": None}
    return UnlearnParams(**{**base, **changes})


def run(lm: LanguageModel, parameters: UnlearnParams, *, seed: int = 0, **options):
    return unlearn(lm, FORGET, RETAIN, HOLDOUT, parameters, seed=seed, num_threads=1, **options)


def weights(lm: LanguageModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in lm.model.named_parameters()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def dense(trained, pruned) -> LanguageModel:
    """Not pruned yet, but it is known what will go."""
    lm = copy.deepcopy(trained)
    lm.mask = pruned.mask
    return lm


# -- batches --------------------------------------------------------------------------------------


def sequences_of(lengths: list[int]) -> list[Encoded]:
    return [Encoded(tuple(range(length)), 1) for length in lengths]


@pytest.mark.parametrize(("num_rows", "batch_size"), [(20, 8), (24, 8), (5, 8), (1, 1)])
def test_each_epoch_holds_each_row_once_in_another_order(num_rows, batch_size):
    lengths = torch.randint(5, 80, (num_rows,), generator=torch.Generator().manual_seed(0)).tolist()
    per_epoch = math.ceil(num_rows / batch_size)

    def three_epochs(seed: int) -> list[list[list[int]]]:
        order = batches(sequences_of(lengths), batch_size, seed)
        return [[next(order) for _ in range(per_epoch)] for _ in range(3)]

    epochs = three_epochs(seed=1)
    for epoch in epochs:
        assert sorted(i for rows in epoch for i in rows) == list(range(num_rows))
        assert all(0 < len(rows) <= batch_size for rows in epoch)
    assert three_epochs(seed=1) == epochs
    if per_epoch > 1:
        assert epochs[0] != epochs[1]
        assert three_epochs(seed=2) != epochs


def test_batches_hold_rows_of_similar_length_in_no_fixed_company():
    lengths = torch.randint(10, 100, (403,), generator=torch.Generator().manual_seed(0)).tolist()
    order = batches(sequences_of(lengths), 8, 0)
    first, second = ([next(order) for _ in range(51)] for _ in range(2))
    cells = sum(max(lengths[i] for i in rows) * len(rows) for rows in first)
    assert sum(lengths) / cells > 0.85  # batches in random order: 0.62
    assert not {frozenset(rows) for rows in first} & {frozenset(rows) for rows in second}
    assert {len(rows) for rows in first} == {8, 3}
    middle = [sum(lengths[i] for i in rows) / len(rows) for rows in first]
    assert middle != sorted(middle)


# -- finetune -------------------------------------------------------------------------------------


def test_finetune_learns_and_reports_each_epoch(trained):
    lm = copy.deepcopy(trained)
    seen = []
    history = finetune(
        lm,
        lm.encode(FORGET),
        FinetuneParams(epochs=3, lr=0.002, batch_size=8),
        seed=0,
        progress=lambda step, total, values: seen.append((step, total, values["loss"])),
    )
    assert history.steps == 9
    assert [entry["epoch"] for entry in history.trajectory] == [1, 2, 3]
    assert history.trajectory[-1]["loss"] < history.trajectory[0]["loss"]
    assert [s[:2] for s in seen] == [(i, 9) for i in range(1, 10)]
    assert sum(s[2] for s in seen[:3]) / 3 == pytest.approx(history.trajectory[0]["loss"])


def test_finetune_under_a_mask_recovers_and_keeps_it(lm):
    digest = mask_digest(lm.mask)
    before = mean_answer_logp(lm, lm.encode(RETAIN))
    finetune(lm, lm.encode(RETAIN), FinetuneParams(epochs=4, lr=0.002), seed=0)
    check_mask(lm.model, lm.mask)
    assert mask_digest(lm.mask) == digest
    assert mean_answer_logp(lm, lm.encode(RETAIN)) > before


def test_frozen_embeddings_do_not_move_and_everything_else_does(lm):
    before = weights(lm)
    finetune(lm, lm.encode(RETAIN), FinetuneParams(epochs=1, lr=0.002, freeze_embeddings=True), seed=0)
    after = weights(lm)
    assert [name for name in before if torch.equal(before[name], after[name])] == ["model.embed_tokens.weight"]


def test_no_epochs_change_nothing(lm):
    before = weights(lm)
    history = finetune(lm, lm.encode(RETAIN), FinetuneParams(epochs=0, lr=0.1), seed=0)
    assert (history.steps, history.trajectory) == (0, [])
    assert same(before, weights(lm))


# -- the optimizer --------------------------------------------------------------------------------


def _linear(seed: int = 0) -> tuple[nn.Linear, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(8, 6)
    kept = torch.rand(6, 8, generator=generator) > 0.5
    with torch.no_grad():
        linear.weight.copy_(torch.randn(6, 8, generator=generator).masked_fill(~kept, 0.0))
        linear.bias.zero_()
    return linear, kept


def test_survivor_adamw_is_masked_adamw():
    """Against dense AdamW from a fresh state with masked gradients and clipping, over several steps."""
    (ours, kept), (reference, _) = _linear(), _linear()
    optimizer = SurvivorAdamW(ours.named_parameters(), {"weight": kept})
    dense = torch.optim.AdamW(reference.parameters(), lr=0.1, weight_decay=0.0)
    generator = torch.Generator().manual_seed(1)
    for lr in (0.1, 0.05, 0.02):
        gradient, bias = torch.randn(6, 8, generator=generator), torch.randn(6, generator=generator)
        ours.weight.grad, ours.bias.grad = gradient.clone(), bias.clone()
        reference.weight.grad, reference.bias.grad = gradient.masked_fill(~kept, 0.0), bias.clone()
        norm = optimizer.step(lr=lr, max_norm=1.0)
        expected = nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        assert norm == pytest.approx(float(expected), rel=1e-5)
        dense.param_groups[0]["lr"] = lr
        dense.step()
        check_mask(ours, {"weight": kept})
    torch.testing.assert_close(ours.weight, reference.weight)
    torch.testing.assert_close(ours.bias, reference.bias)


def test_pruned_gradients_do_not_enter_the_norm_even_when_infinite():
    linear, kept = _linear()
    optimizer = SurvivorAdamW(linear.named_parameters(), {"weight": kept})
    linear.weight.grad = torch.where(kept, 1.0, float("inf"))
    assert optimizer.step(lr=0.1) == pytest.approx(float(kept.sum()) ** 0.5)
    check_mask(linear, {"weight": kept})
    assert linear.weight.isfinite().all()


def test_survivor_that_crosses_zero_stays_a_survivor():
    linear, kept = _linear()
    optimizer = SurvivorAdamW(linear.named_parameters(), {"weight": kept})
    with torch.no_grad():
        linear.weight[kept] = 0.0
    linear.weight.grad = torch.ones(6, 8)
    optimizer.step(lr=0.1)
    assert (linear.weight != 0).equal(kept)


def test_optimizer_state_is_for_survivors_only(lm):
    masked = {name: p for name, p in lm.model.named_parameters() if name in lm.mask}
    ours = SurvivorAdamW(masked.items(), lm.mask)
    dense_parameters = [nn.Parameter(p.detach().clone()) for p in masked.values()]
    dense = torch.optim.AdamW(dense_parameters, lr=0.1)
    for p in (*masked.values(), *dense_parameters):
        p.grad = torch.ones_like(p)
    ours.step(lr=0.1)
    dense.step()

    moments = [t for tensors in ours.moments.values() for t in tensors]
    others = [t for layer in ours.layers for t in vars(layer).values() if isinstance(t, Tensor)]
    models = {t.data_ptr() for t in (*masked.values(), *lm.mask.values())}
    held = [t for t in (*moments, *others) if t.data_ptr() not in models]  # weights and mask are the model's own
    assert sum(t.nbytes for t in moments) >= 8 * sum(int(kept.sum()) for kept in lm.mask.values())
    assert sum(t.nbytes for t in held) <= 0.6 * sum(t.nbytes for s in dense.state.values() for t in s.values())


# -- unlearn --------------------------------------------------------------------------------------


def test_unlearning_stops_at_the_holdout_and_records_the_way(trained):
    lm = copy.deepcopy(trained)
    prune(lm, lm.encode(RETAIN), PruneParams(pruner="sparsegpt", sparsity=0.3))
    finetune(lm, lm.encode(FORGET + RETAIN), FinetuneParams(epochs=25, lr=0.004), seed=1, num_threads=1)
    digest = mask_digest(lm.mask)
    gap = mean_answer_logp(lm, lm.encode(FORGET)) - mean_answer_logp(lm, lm.encode(HOLDOUT))
    margin = 0.6 * gap  # memorised rows stand out; close some of that
    stop = StopParams(eval_every=2, margin_nats=margin, utility_floor=0.0, overshoot_nats=9.0)
    history = run(lm, params(max_steps=60, lr=5e-4, stop=stop, redistribution="importance"))
    last = history.trajectory[-1]
    assert history.stopped == "target"
    assert history.steps == last["step"] < 60
    assert gap > 0.5
    assert [entry["step"] for entry in history.trajectory] == list(range(0, history.steps + 1, 2))
    assert last["forget_logp"] == pytest.approx(mean_answer_logp(lm, lm.encode(FORGET)), rel=1e-4)
    reached = [entry["forget_logp"] <= entry["holdout_logp"] + margin for entry in history.trajectory]
    assert reached == [False] * (len(reached) - 1) + [True]
    assert {"loss", "forget_loss", "retain_loss", "gradient_norm", "retain_logp"} <= last.keys()
    assert json.loads(json.dumps(history.as_dict()))["stopped"] == "target"
    check_mask(lm.model, lm.mask)
    assert mask_digest(lm.mask) == digest


def test_margin_moves_the_target(lm):
    history = run(lm, params(stop=StopParams(eval_every=1, margin_nats=10.0)))
    assert (history.stopped, history.steps) == ("target", 1)


def test_a_far_too_large_learning_rate_is_taken_back_and_the_best_state_is_kept(trained):
    lm = copy.deepcopy(trained)
    before = mean_answer_logp(lm, lm.encode(RETAIN))
    stop = StopParams(eval_every=1, utility_floor=0.9, max_changes=6)
    history = run(lm, params(objective="calibrated", max_steps=40, lr=0.1, stop=stop))
    floor = before + math.log(0.9)
    assert min(entry["retain_logp"] for entry in history.trajectory) < floor  # it did break
    assert mean_answer_logp(lm, lm.encode(RETAIN)) >= floor - 1e-4  # and did not stay broken
    lrs = [entry["lr"] for entry in history.trajectory[1:]]
    assert min(lrs) < 0.1
    assert history.steps in [entry["step"] for entry in history.trajectory]
    left = next(entry for entry in history.trajectory if entry["step"] == history.steps)
    assert mean_answer_logp(lm, lm.encode(FORGET)) == pytest.approx(left["forget_logp"], rel=1e-3)


def test_too_little_weight_on_the_retain_rows_is_raised_until_the_goal_is_in_reach(trained):
    lm = copy.deepcopy(trained)
    stop = StopParams(eval_every=2, utility_floor=0.9, margin_nats=0.1)
    parameters = {"objective": "calibrated", "lr": 5e-3, "max_steps": 80}
    before = mean_answer_logp(lm, lm.encode(RETAIN))
    history = run(lm, params(alpha=0.05, stop=stop, **parameters))
    alphas = [entry["alpha"] for entry in history.trajectory[1:]]
    assert alphas == sorted(alphas)
    assert alphas[0] == 0.05 < 0.2 <= alphas[-1]
    assert history.stopped == "target"
    assert mean_answer_logp(lm, lm.encode(RETAIN)) >= before + math.log(0.9) - 1e-4


def test_a_far_too_small_learning_rate_is_raised(trained):
    lm = copy.deepcopy(trained)
    stop = StopParams(eval_every=1, patience=2)
    history = run(lm, params(objective="calibrated", max_steps=12, lr=1e-7, stop=stop))
    lrs = [entry["lr"] for entry in history.trajectory[1:]]
    assert lrs == sorted(lrs)
    assert lrs[-1] >= 8e-7


def test_without_a_stop_rule_all_steps_are_taken(lm):
    history = run(lm, params(max_steps=5))
    assert (history.stopped, history.steps) == ("max_steps", 5)
    assert [entry["step"] for entry in history.trajectory] == [0, 5]


def test_a_run_that_is_not_watched_gives_the_same_weights(pruned):
    models = [copy.deepcopy(pruned) for _ in range(3)]
    unwatched = run(models[0], params(max_steps=4, stop=None), watch=False)
    watched = run(models[1], params(max_steps=4, stop=None))
    assert unwatched.trajectory == []
    assert [entry["step"] for entry in watched.trajectory] == [0, 4]
    assert same(weights(models[0]), weights(models[1]))
    # A stop rule has to see where it is, whoever is watching.
    assert run(models[2], params(max_steps=4, stop=StopParams(eval_every=2)), watch=False).trajectory


def test_dense_model_is_unlearned_densely(trained):
    lm = copy.deepcopy(trained)
    before = weights(lm)
    history = run(lm, params(redistribution="importance"))
    assert lm.mask is None
    assert history.trajectory[-1]["forget_logp"] < history.trajectory[0]["forget_logp"]
    assert not same(before, weights(lm))


def test_frozen_embeddings_and_gradients_are_put_back(lm):
    embedding = lm.model.get_input_embeddings().weight.clone()
    run(lm, params())
    assert torch.equal(lm.model.get_input_embeddings().weight, embedding)
    assert all(p.requires_grad and p.grad is None for p in lm.model.parameters())


def test_seed_decides_and_nothing_else_does(pruned):
    results = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        lm = copy.deepcopy(pruned)
        torch.manual_seed(noise)
        run(lm, params(objective={"name": "rmu", "block": 1}), seed=seed)
        results.append(weights(lm))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_gradient_difference_without_its_retain_term_is_gradient_ascent(pruned):
    results = []
    for objective, alpha in (("grad_diff", 0.0), ("grad_ascent", 1.0)):
        lm = copy.deepcopy(pruned)
        run(lm, params(objective=objective, alpha=alpha))
        results.append(weights(lm))
    assert same(*results)


def test_gamma_weighs_forget_and_alpha_weighs_retain(pruned):
    def change(**weights: float) -> tuple[float, float]:
        lm = copy.deepcopy(pruned)
        first, last = run(lm, params(objective="grad_diff", max_steps=8, lr=2e-3, **weights)).trajectory
        return last["forget_logp"] - first["forget_logp"], last["retain_logp"] - first["retain_logp"]

    assert change(gamma=0.0, alpha=1.0)[1] > 0  # retain only: ordinary finetuning
    assert change(gamma=1.0, alpha=0.0)[0] < -0.5
    assert change(gamma=1.0, alpha=5.0)[1] > change(gamma=1.0, alpha=0.1)[1]


def test_progress_sees_every_step(lm):
    seen = []
    run(lm, params(max_steps=3), progress=lambda step, total, values: seen.append((step, total, sorted(values))))
    keys = ["forget_loss", "gradient_norm", "loss", "retain_loss"]
    assert seen == [(i, 3, keys) for i in (1, 2, 3)]


# -- divergence and refusals ----------------------------------------------------------------------


def test_divergence_names_step_and_objective_and_touches_no_weight(lm, monkeypatch):
    taken = {}

    def forget_loss(self, forget, state):
        if forget_loss.calls == 2:
            taken.update(weights(lm))
        forget_loss.calls += 1
        return -forget.mean_nll * (float("nan") if forget_loss.calls == 3 else 1.0)

    forget_loss.calls = 0
    monkeypatch.setattr(GradAscent, "forget_loss", forget_loss)
    with pytest.raises(DivergedError, match=r"^step 3, objective grad_ascent: the loss is nan$"):
        run(lm, params(objective="grad_ascent"))
    assert same(taken, weights(lm))
    assert all(p.requires_grad and p.grad is None for p in lm.model.parameters())


def test_infinite_gradient_is_refused_before_the_step(lm, monkeypatch):
    def forget_loss(self, forget, state):
        return (forget.mean_nll - forget.mean_nll.detach()).abs().sqrt()  # 0, with an infinite slope

    before = weights(lm)
    monkeypatch.setattr(GradAscent, "forget_loss", forget_loss)
    with pytest.raises(DivergedError, match=r"step 1, objective grad_ascent: the gradient's norm is nan"):
        run(lm, params(objective="grad_ascent"))
    assert same(before, weights(lm))


@pytest.mark.parametrize(
    ("redistribution", "message"),
    [
        ("none", None),
        ("importance", r"^step 1, objective \w+: the forget term's gradient of .*q_proj.weight is not finite$"),
        ("compensated", r"^step 1, objective \w+: the gradient of .*q_proj.weight is not finite$"),
    ],
)
def test_infinite_gradient_of_a_pruned_weight_is_refused_where_it_would_be_redistributed(lm, redistribution, message):
    name = next(name for name in lm.mask if name.endswith("q_proj.weight"))
    lm.model.get_parameter(name).register_hook(lambda gradient: gradient.masked_fill(~lm.mask[name], float("inf")))
    before = weights(lm)
    if message is None:
        run(lm, params(redistribution=redistribution))
        assert all(p.isfinite().all() for p in lm.model.parameters())
    else:
        with pytest.raises(DivergedError, match=message):
            run(lm, params(redistribution=redistribution))
        assert same(before, weights(lm))


def test_finetune_diverges_by_name(lm):
    with torch.no_grad():
        lm.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match="step 1, objective finetune: the loss is nan"):
        finetune(lm, lm.encode(RETAIN), FinetuneParams(epochs=1, lr=0.1), seed=0)


@pytest.mark.parametrize("empty", ["forget", "retain", "holdout"])
def test_empty_sets_are_refused(lm, empty):
    sets = {"forget": FORGET, "retain": RETAIN, "holdout": HOLDOUT, empty: []}
    with pytest.raises(DataError, match=f"the {empty} set is empty"):
        unlearn(lm, **sets, params=params(), seed=0)


def test_finetune_without_rows_is_refused(lm):
    with pytest.raises(DataError, match="at least one row"):
        finetune(lm, [], FinetuneParams(epochs=1, lr=0.1), seed=0)


def test_model_off_its_mask_is_refused(lm):
    name = next(iter(lm.mask))
    with torch.no_grad():
        lm.model.get_parameter(name).neg_()  # pruned weights are -0.0 now
    with pytest.raises(SparsityError, match=r"pruned weights are not \+0.0"):
        run(lm, params())


def test_objective_that_may_move_nothing_is_refused(lm, monkeypatch):
    monkeypatch.setattr(GradAscent, "trains", lambda self, parameter, model: False)
    with pytest.raises(ConfigError, match="none of this model's parameters may move"):
        run(lm, params(objective="grad_ascent"))


# -- learning rate and fading ---------------------------------------------------------------------


def test_without_a_stop_rule_the_rate_falls_to_zero(lm, monkeypatch):
    rates = []
    step = SurvivorAdamW.step

    def watched(self, *, lr, **options):
        rates.append(lr)
        return step(self, lr=lr, **options)

    monkeypatch.setattr(SurvivorAdamW, "step", watched)
    history = run(lm, params(max_steps=4, lr=0.004))
    assert rates == pytest.approx([0.004, 0.003, 0.002, 0.001])
    assert history.trajectory[-1]["lr"] == pytest.approx(0.001)


def test_what_the_mask_takes_fades_away_while_survivors_unlearn(dense):
    sequences = dense.encode(FORGET)
    before = mean_answer_logp(dense, sequences)
    readings = []
    parameters = params(order="unlearn-prune", fade_steps=2, max_steps=4)
    history = run(dense, parameters, progress=lambda *_: readings.append(mean_answer_logp(dense, sequences)))
    check_mask(dense.model, dense.mask)
    assert history.trajectory[0]["forget_logp"] == pytest.approx(before, abs=1e-4)
    # Gone by the second step: leaving changes nothing any more.
    assert mean_answer_logp(dense, sequences) == readings[3]
    assert history.trajectory[-1]["forget_logp"] == pytest.approx(readings[3], abs=1e-5)
    halfway = copy.deepcopy(dense)
    with pytest.raises(KeyboardInterrupt):
        run(halfway, parameters, progress=interrupt)
    check_mask(halfway.model, halfway.mask)
    assert abs(mean_answer_logp(halfway, sequences) - readings[0]) > 0.01


def interrupt(*_) -> None:
    raise KeyboardInterrupt


def test_no_state_is_judged_that_still_has_what_will_go(dense):
    stop = StopParams(eval_every=1, margin_nats=10.0, overshoot_nats=100.0, utility_floor=0.0)
    history = run(dense, params(order="unlearn-prune", fade_steps=3, max_steps=8, stop=stop))
    assert (history.stopped, history.steps) == ("target", 3)
    assert [reading["step"] for reading in history.trajectory] == [0, 3]


def test_a_floor_that_fading_breaks_does_not_bring_back_the_dense_survivors(dense):
    stop = StopParams(eval_every=1, utility_floor=1.0)
    history = run(dense, params(order="unlearn-prune", fade_steps=3, max_steps=6, lr=1e-4, stop=stop))
    before, *after = history.trajectory
    assert all(reading["retain_logp"] < before["retain_logp"] for reading in after)  # it did break
    check_mask(dense.model, dense.mask)
    left = next(reading for reading in after if reading["step"] == history.steps)
    assert mean_answer_logp(dense, dense.encode(RETAIN)) == pytest.approx(left["retain_logp"], abs=1e-4)


def test_fading_takes_no_more_steps_than_there_are():
    with pytest.raises(ValueError, match="fade_steps 20: at most max_steps, 4"):
        params(order="unlearn-prune")
    assert params().fade_steps == 20
