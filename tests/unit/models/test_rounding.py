"""Rounding to bfloat16: at most one step, exact where it can be, unbiased, and an update is not taken back."""

import pytest
import torch

from sau.checkpoint.sparse import PackageParams
from sau.models.rounding import round_to, stochastic

VALUES = torch.cat(
    [torch.randn(4000, generator=torch.Generator().manual_seed(0)) * 10.0**power for power in (-30, 0, 5)]
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def steps(value):
    """bfloat16 numbers in order, as integers one apart."""
    bits = value.view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


def test_the_result_is_one_of_the_two_neighbours():
    rounded = stochastic(VALUES, generator())
    assert rounded.dtype == torch.bfloat16
    assert int((steps(rounded) - steps(VALUES.bfloat16())).abs().max()) == 1
    step = 2.0 ** (VALUES.double().abs().log2().floor() - 7)
    assert bool(((rounded.double() - VALUES).abs() < step).all())


def test_bfloat16_numbers_zeros_and_what_is_not_finite_stay():
    exact = torch.cat([VALUES.bfloat16().float(), torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan])])
    assert torch.equal(stochastic(exact, generator()).view(torch.int16), exact.bfloat16().view(torch.int16))


def test_it_is_unbiased_in_both_signs():
    """Over 20,000 draws the mean is the value, within five of its standard errors."""
    for value in (1.001, -1.001, 3.0e-5, -0.7501):
        rounded = stochastic(torch.full((20_000,), value), generator(3)).double()
        low, high = rounded.min(), rounded.max()
        assert low < value < high
        assert abs(rounded.mean() - value) < 5 * (high - low) / 2 / 20_000**0.5


def test_a_small_update_survives_in_the_sum_where_nearest_takes_all_of_it_back():
    parent = torch.randn(64, 4096, generator=generator(1)).bfloat16().float()
    update = 0.1 * 2.0 ** (parent.abs().log2().floor() - 7)  # a tenth of a step: never the nearest
    moved = round_to({"w": parent + update}, torch.bfloat16, "stochastic", seed=0)["w"].float() - parent
    assert not (round_to({"w": parent + update}, torch.bfloat16, "nearest", seed=0)["w"].float() - parent).any()
    assert float(moved.sum() / update.sum()) == pytest.approx(1.0, abs=0.05)


def test_the_seed_fixes_it_and_another_seed_changes_it():
    state = {"a": VALUES, "b": VALUES}
    first, again, other = (round_to(state, torch.bfloat16, "stochastic", seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in state)
    assert not torch.equal(first["a"], other["a"])
    assert not torch.equal(first["a"], first["b"])


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_float32_is_not_rounded(rounding):
    assert torch.equal(round_to({"w": VALUES}, torch.float32, rounding, seed=0)["w"], VALUES)


def test_it_is_the_default_where_numbers_are_rounded_at_all():
    assert PackageParams() == PackageParams(dtype="float32", rounding="stochastic")


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_what_is_no_floating_point_number_stays(rounding):
    state = {"counts": torch.tensor([1, 2, 300]), "weight": torch.tensor([1.001])}
    rounded = round_to(state, torch.bfloat16, rounding, seed=0)
    assert rounded["counts"].tolist() == [1, 2, 300]
    assert (rounded["counts"].dtype, rounded["weight"].dtype) == (torch.int64, torch.bfloat16)


@pytest.mark.parametrize("value", [0.1, -0.3333, 1234.567, 1e-6, 3e-8, 2**-14 - 1e-9])
def test_float16_is_drawn_to_either_neighbour_with_the_value_as_mean(value):
    drawn = round_to({"x": torch.full((100_000,), value)}, torch.float16, "stochastic", seed=0)["x"].double()
    neighbours = drawn.unique()
    assert len(neighbours) == 2
    step = float(neighbours[1] - neighbours[0])
    assert abs(float(drawn.mean()) - value) < 0.01 * step


def test_float16_numbers_stay_what_they_are():
    given = torch.tensor([0.0, 1.5, -(2**-24), 65504.0, float("inf"), 70000.0])
    drawn = round_to({"x": given}, torch.float16, "stochastic", seed=0)["x"]
    assert torch.equal(drawn, given.half())
