"""Redistribution: hand-derived scales, exact solutions, projections."""

import copy

import pytest
import torch
from torch import Tensor, nn

from sau.data.demo import demo_rows
from sau.data.sets import Sets
from sau.errors import ConfigError, DivergedError
from sau.mask import check_mask
from sau.models.batches import collate
from sau.models.outputs import forward
from sau.pruners import PruneParams, prune
from sau.registry import build, discover
from sau.training.optimizer import Survivors
from sau.unlearn.objectives.base import Setting
from sau.unlearn.redistribution.base import Redistribution, project_off
from sau.unlearn.redistribution.importance import importance_scale
from sau.unlearn.redistribution.least_squares import solve_on_survivors
from sau.unlearn.unlearn import UnlearnParams, unlearn

PACKAGE = "sau.unlearn.redistribution"


def make(config) -> Redistribution:
    return build(Redistribution, PACKAGE, config)


@pytest.fixture
def setting(dense):
    """A model pruned by magnitude, with its rows."""
    lm = copy.deepcopy(dense)
    prune(lm, [], PruneParams(pruner="magnitude"))
    forget, retain = demo_rows("a", seed=1), demo_rows("b", seed=1)
    return Setting(lm, forget, lm.encode(forget), lm.encode(retain), lm.encode(demo_rows("c", seed=1)))


def layer_of(weight: Tensor, kept: Tensor) -> Survivors:
    return Survivors("w", nn.Parameter(weight.masked_fill(~kept, 0.0)), kept)


def test_known():
    assert set(discover(Redistribution, PACKAGE)) == {"none", "importance", "compensated", "natural"}


def test_survivors_gather_and_scatter_are_inverse():
    kept = torch.tensor([[True, False, True], [False, False, True]])
    layer = layer_of(torch.arange(1.0, 7.0).view(2, 3), kept)
    assert layer.gather(layer.weight.detach()).tolist() == [1.0, 3.0, 6.0]
    assert (layer.num_survivors_O.tolist(), layer.num_survivors) == ([2, 1], 3)
    assert layer.scatter(torch.tensor([7.0, 8.0, 9.0])).tolist() == [[7.0, 0.0, 8.0], [0.0, 0.0, 9.0]]


def test_none_gives_back_the_very_step():
    step = torch.rand(3)
    assert make("none").redistribute(None, step, None) is step


# -- importance -----------------------------------------------------------------------------------

KEPT = torch.tensor([[True, True, False, False]])


def scale(pruned: float, survivors: list[float], *, bound: float = 100.0, normalise: bool = False) -> list[float]:
    rows = torch.tensor([pruned]), torch.tensor([sum(survivors)])
    counts = torch.tensor([len(survivors)])
    return importance_scale(*rows, torch.tensor(survivors), counts, bound=bound, normalise=normalise).tolist()


def test_equal_importance_at_half_doubles_every_step():
    assert scale(2.0, [1.0, 1.0]) == pytest.approx([2.0, 2.0])


def test_share_is_in_proportion_to_a_survivors_own_importance():
    # A/S = 8/4 = 2; shares in units of the mean 2: 1/2 and 3/2.
    assert scale(8.0, [1.0, 3.0]) == pytest.approx([2.0, 4.0])


def test_nothing_pruned_was_asked_for_nothing_changes():
    assert scale(0.0, [1.0, 3.0]) == [1.0, 1.0]


def test_bound_and_mean():
    assert scale(8.0, [1.0, 3.0], bound=3.0) == pytest.approx([2.0, 3.0])
    assert scale(8.0, [1.0, 3.0], normalise=True) == pytest.approx([2 / 3, 4 / 3])


def test_survivors_without_importance_stay_finite():
    assert scale(5.0, [0.0, 0.0]) == [1.0, 1.0]
    assert scale(2e-30, [1e-30, 1e-30]) == pytest.approx([2.0, 2.0])
    none, tiny = scale(1e-3, [0.0, 1e-38])  # the row's boost leaves float32
    assert (none, 1 < tiny <= 100) == (1.0, True)
    rows = torch.tensor([3.0, 2.0]), torch.tensor([0.0, 2.0])
    counts = torch.tensor([0, 2])  # a row without survivors
    assert importance_scale(*rows, torch.ones(2), counts, bound=4.0, normalise=True).tolist() == [1.0, 1.0]
    assert scale(5.0, []) == []


def test_importance_uses_the_forget_gradient_where_weights_are_pruned():
    layer = layer_of(torch.ones(1, 4), KEPT)
    rule = make({"name": "importance", "decay": 0.0, "normalise": False, "bound": 100})
    state = rule.start([layer], None)
    layer.weight.grad = torch.tensor([[1.0, 1.0, 2.0, 0.0]])
    rule.observe(layer, state)  # pruned importance 4, survivors 1 and 1: A/S = 2
    layer.weight.grad = torch.full((1, 4), 9.0)  # the whole loss's gradient does not matter
    assert rule.redistribute(layer, torch.tensor([0.1, -0.1]), state).tolist() == pytest.approx([0.3, -0.3])


def test_importance_in_rows_of_any_length_is_the_formula_weight_by_weight():
    """Several steps against plain loops, with a row of survivors only, one of one survivor and one of none."""
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(6, 9, generator=generator) > 0.4
    kept[1], kept[2], kept[4] = True, False, torch.arange(9) == 7
    layer = layer_of(torch.randn(6, 9, generator=generator), kept)
    rule = make({"name": "importance", "decay": 0.7, "bound": 3.0})
    state = rule.start([layer], None)
    mean = torch.zeros(6, 9, dtype=torch.float64)
    for _ in range(4):
        layer.weight.grad = torch.randn(6, 9, generator=generator)
        rule.observe(layer, state)
        mean = 0.7 * mean + 0.3 * layer.weight.grad.double() ** 2
        step = torch.randn(int(kept.sum()), generator=generator)
        taken = rule.redistribute(layer, step.clone(), state)
        factors = []
        for row in range(6):
            own = [float(mean[row, i]) for i in range(9) if kept[row, i]]
            lost = sum(float(mean[row, i]) for i in range(9) if not kept[row, i])
            factors += [min(3.0, 1 + lost / sum(own) * one / (sum(own) / len(own))) for one in own]
        factors = torch.tensor(factors) / (sum(factors) / len(factors))
        torch.testing.assert_close(taken, step * factors)


@pytest.mark.parametrize("where", [0, 2])
def test_importance_refuses_a_forget_gradient_that_is_not_finite(where):
    layer = layer_of(torch.ones(1, 4), KEPT)
    rule = make("importance")
    state = rule.start([layer], None)
    layer.weight.grad = torch.ones(1, 4)
    layer.weight.grad[0, where] = float("inf")
    with pytest.raises(DivergedError, match="forget term's gradient of w is not finite"):
        rule.observe(layer, state)


# -- compensated ----------------------------------------------------------------------------------


def _hessian(size: int, generator: torch.Generator) -> Tensor:
    inputs = torch.randn(4 * size, size, generator=generator) @ torch.randn(size, size, generator=generator)
    hessian = inputs.T @ inputs
    return hessian + 0.01 * hessian.diagonal().mean() * torch.eye(size)


def test_conjugate_gradients_solve_every_rows_own_system():
    generator = torch.Generator().manual_seed(0)
    hessian = _hessian(12, generator).double()
    kept = torch.rand(5, 12, generator=generator) > 0.5
    kept[3] = False
    kept[4] = True
    target = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    solution = solve_on_survivors(target, hessian, kept, 40)
    assert not solution[~kept].any()
    for row, survivors in enumerate(kept):
        expected = torch.linalg.solve(hessian[survivors][:, survivors], target[row, survivors])
        torch.testing.assert_close(solution[row, survivors], expected, rtol=1e-6, atol=1e-9)


def test_compensated_step_is_the_least_squares_optimum():
    generator = torch.Generator().manual_seed(1)
    hessian = _hessian(10, generator)
    kept = torch.rand(4, 10, generator=generator) > 0.5
    layer = layer_of(torch.randn(4, 10, generator=generator), kept)
    layer.weight.grad = torch.randn(4, 10, generator=generator)
    step = -0.01 * layer.gather(layer.weight.grad)  # plain gradient descent: the rate is 0.01 in every row
    dense = -0.01 * layer.weight.grad
    taken = layer.scatter(make({"name": "compensated", "num_iterations": 50}).redistribute(layer, step, {"w": hessian}))

    def change(step_OI: Tensor) -> Tensor:
        difference = step_OI - dense
        return ((difference @ hessian) * difference).sum(1)

    assert (change(taken) <= change(layer.scatter(step)) + 1e-9).all()
    residual = ((taken - dense) @ hessian)[kept]  # the gradient of the squared change vanishes on survivors
    torch.testing.assert_close(residual, torch.zeros_like(residual), rtol=0, atol=1e-3 * float(hessian.max()) * 0.01)
    few = make({"name": "compensated", "num_iterations": 4}).redistribute(layer, step, {"w": hessian})
    assert change(layer.scatter(few)).sum() < change(layer.scatter(step)).sum()


def test_compensated_with_uncorrelated_inputs_changes_nothing():
    kept = torch.tensor([[True, False, True]])
    layer = layer_of(torch.ones(1, 3), kept)
    layer.weight.grad = torch.tensor([[1.0, 5.0, 2.0]])
    step = torch.tensor([-0.1, -0.2])
    taken = make("compensated").redistribute(layer, step, {"w": torch.diag(torch.tensor([1.0, 2.0, 3.0]))})
    torch.testing.assert_close(taken, step)


def test_compensated_by_hand():
    # H = [[2, 1], [1, 1]], the second weight pruned: its step -r * 3 is carried by the first as H_12 / H_11 = 1/2.
    layer = layer_of(torch.ones(1, 2), torch.tensor([[True, False]]))
    layer.weight.grad = torch.tensor([[1.0, 3.0]])
    state = {"w": torch.tensor([[2.0, 1.0], [1.0, 1.0]])}
    step = torch.tensor([-0.1])
    assert make("compensated").redistribute(layer, step, state).tolist() == pytest.approx([-0.1 - 0.15])
    same_length = make({"name": "compensated", "normalise": True}).redistribute(layer, step, state)
    assert same_length.tolist() == pytest.approx([-0.1])


@pytest.mark.parametrize("method", ["compensated", "natural"])
def test_inputs_are_those_of_retain_rows(setting, method):
    model = setting.lm.model
    name = "model.layers.0.mlp.gate_proj.weight"
    layer = Survivors(name, model.get_parameter(name), setting.lm.mask[name])
    hessian = make({"name": method, "num_rows": 20, "damping": 0.01}).start([layer], setting)[name]
    expected = torch.zeros(32, 32)

    def add(_module, args):
        expected.add_(args[0][0].T @ args[0][0])

    handle = model.get_submodule("model.layers.0.mlp.gate_proj").register_forward_pre_hook(add)
    with torch.no_grad():
        for sequence in setting.retain:
            model(input_ids=torch.tensor([sequence.input_ids]))
    handle.remove()
    expected += 0.01 * expected.diagonal().mean() * torch.eye(32)
    torch.testing.assert_close(hessian, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["importance", "compensated", "natural"])
def test_a_training_that_multiplies_in_bfloat16_is_redistributed_too(setting, method):
    params = UnlearnParams(
        objective={"name": "grad_diff"}, redistribution={"name": method}, lr=1e-3, max_steps=2, batch_size=8, stop=None
    )
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        history = unlearn(setting.lm, Sets(*(demo_rows(who, seed=1) for who in "abc")), params, seed=0)
    assert len(history.trajectory) >= 2
    check_mask(setting.lm.model, setting.lm.mask)
    assert all(parameter.dtype == torch.float32 for parameter in setting.lm.model.parameters())


# -- natural --------------------------------------------------------------------------------------


def _natural_case(seed: int) -> tuple[Survivors, Tensor, Tensor]:
    """A layer with a row of survivors only and one of none, its step, and what its inputs are like."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(6, 10, generator=generator) > 0.5
    kept[1], kept[4] = True, False
    layer = layer_of(torch.randn(6, 10, generator=generator), kept)
    step = torch.randn(layer.num_survivors, generator=generator)
    return layer, step, _hessian(10, generator)


def test_natural_step_goes_furthest_along_adamws_for_what_it_changes():
    layer, step, hessian = _natural_case(0)
    rule = make({"name": "natural", "num_iterations": 60})
    step_OI = layer.scatter(step)
    taken = layer.scatter(rule.redistribute(layer, step, {"w": hessian}))
    assert not taken[~layer.kept_OI].any()
    torch.testing.assert_close(taken.norm(dim=1), step_OI.norm(dim=1))

    def progress_per_change(step_of_O: Tensor) -> Tensor:
        change = ((step_of_O @ hessian) * step_of_O).sum(1).sqrt()
        return (step_of_O * step_OI).sum(1) / change

    some = layer.num_survivors_O > 0
    best = progress_per_change(taken)[some]
    assert (best >= progress_per_change(step_OI)[some]).all()
    for seed in range(20):  # and no other direction does better
        other = torch.randn(taken.shape, generator=torch.Generator().manual_seed(seed)) * layer.kept_OI
        nearby = taken + 0.1 * other * taken.norm(dim=1, keepdim=True)
        assert (progress_per_change(nearby)[some] <= best + 1e-4).all()
    few = layer.scatter(make("natural").redistribute(layer, step, {"w": hessian}))
    assert progress_per_change(few)[some].mean() > progress_per_change(step_OI)[some].mean()


def test_natural_step_imitates_the_dense_natural_step():
    layer, step, hessian = _natural_case(1)
    dense = layer.scatter(step) @ torch.linalg.inv(hessian)
    masked = layer.gather(dense)
    taken = layer.scatter(make({"name": "natural", "num_iterations": 60}).redistribute(layer, step, {"w": hessian}))
    for row in range(6):
        of = layer.kept_OI[row]
        if not of.any():
            continue
        # Least squares in the layer's outputs, by hand; the rule keeps its direction.
        best = torch.linalg.solve(hessian[of][:, of], (dense[row] @ hessian)[of])
        torch.testing.assert_close(taken[row, of] / taken[row].norm(), best / best.norm(), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(layer.gather(taken) / taken.norm(), masked / masked.norm(), atol=1e-2)


def test_natural_step_with_equal_uncorrelated_inputs_is_adamws():
    layer, step, _ = _natural_case(2)
    taken = make("natural").redistribute(layer, step, {"w": 3.0 * torch.eye(10)})
    torch.testing.assert_close(taken, step)


def test_natural_forgets_more_for_what_retain_rows_lose(setting):
    """With the retain term off, at steps of the same length."""
    price = {}
    for method in ("none", "natural"):
        lm = copy.deepcopy(setting.lm)
        params = UnlearnParams(
            objective="grad_diff", redistribution=method, lr=1e-3, max_steps=8, batch_size=20, alpha=0.0, stop=None
        )
        rows, retain = setting.forget_rows, demo_rows("b", seed=1)
        first, last = unlearn(lm, Sets(rows, retain, retain), params, seed=0, num_threads=1).trajectory
        check_mask(lm.model, lm.mask)
        assert last["forget_logp"] < first["forget_logp"]
        price[method] = (first["retain_logp"] - last["retain_logp"]) / (first["forget_logp"] - last["forget_logp"])
    assert price["natural"] < price["none"]


# -- projection -----------------------------------------------------------------------------------


def test_projection_by_hand():
    gradient = torch.tensor([2.0, 0.0])
    assert project_off(torch.tensor([3.0, 1.0]), gradient).tolist() == [0.0, 1.0]
    assert project_off(torch.tensor([-3.0, 1.0]), gradient).tolist() == [-3.0, 1.0]  # lowers the loss: stays
    assert project_off(torch.tensor([3.0, 1.0]), torch.zeros(2)).tolist() == [3.0, 1.0]


def test_projection_is_off_the_retain_terms_own_gradient(setting, monkeypatch):
    seen = []
    monkeypatch.setattr("sau.unlearn.step.project_off", lambda step_S, gradient_S, _: seen.append(gradient_S) or step_S)
    rows, retain, model = setting.forget_rows, demo_rows("b", seed=1), setting.lm.model
    params = UnlearnParams(
        objective="grad_diff",
        redistribution={"name": "none", "project": True},
        lr=1e-12,  # nothing moves: the gradient can be taken again afterwards
        max_steps=1,
        batch_size=len(retain),
        alpha=2.0,
        stop=None,
    )
    unlearn(setting.lm, Sets(rows, retain, retain), params, seed=0, num_threads=1)
    (2.0 * forward(model, collate(setting.retain), torch.arange(len(retain))).mean_nll).backward()
    expected = [p.grad[setting.lm.mask[name]] for name, p in model.named_parameters() if name in setting.lm.mask]
    assert len(seen) == len(expected)
    for got, want in zip(seen, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4 * float(want.abs().max()))


def test_any_method_can_be_projected_and_then_lowers_the_retain_loss_less(setting):
    """With the retain term off, only the projection stands between forgetting and the retain rows."""
    start = copy.deepcopy(setting.lm)
    fall = {}
    for project in (False, True):
        lm = copy.deepcopy(start)
        params = UnlearnParams(
            objective="grad_diff",
            redistribution={"name": "importance", "project": project},
            lr=1e-3,
            max_steps=8,
            batch_size=20,
            gamma=1.0,
            alpha=1e-3,
            stop=None,
        )
        rows, retain = setting.forget_rows, demo_rows("b", seed=1)
        first, last = unlearn(lm, Sets(rows, retain, retain), params, seed=0, num_threads=1).trajectory
        assert last["forget_logp"] < first["forget_logp"]
        check_mask(lm.model, lm.mask)
        fall[project] = first["retain_logp"] - last["retain_logp"]
    assert fall[True] < fall[False]


def test_refusals():
    with pytest.raises(ConfigError, match="did you mean 'importance'"):
        make("importanse")
    with pytest.raises(ConfigError, match="bound: Input should be greater than or equal to 1"):
        make({"name": "importance", "bound": 0.5})
