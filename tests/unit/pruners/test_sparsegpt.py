"""SparseGPT against its definition, by hand, and beside the other pruners."""

import pytest
import torch

from sau.errors import SparsityError
from sau.pruners.base import keep_highest
from sau.pruners.sparsegpt import gram, sparsegpt
from sau.pruners.wanda import wanda_score


def test_sparsegpt_changes_the_output_less_than_wanda_and_wanda_less_than_magnitude(rows):
    torch.manual_seed(0)
    scale = torch.logspace(-1, 1, 64)
    inputs = torch.randn(512, 32) @ torch.randn(32, 64) * scale
    weight = torch.randn(16, 64)
    hessian = inputs.T @ inputs

    def change(pruned: torch.Tensor) -> float:
        return float((inputs @ (pruned - weight).T).norm())

    options = {"structure": "unstructured", "sparsity": 0.5}
    by_magnitude = weight.masked_fill(~keep_highest(weight.abs(), **options), 0.0)
    by_wanda = weight.masked_fill(~keep_highest(wanda_score(weight, hessian.diagonal()), **options), 0.0)
    by_sparsegpt, _ = sparsegpt(weight, hessian, damping=0.01, **options)
    assert change(by_sparsegpt) < 0.8 * change(by_wanda) < 0.8 * change(by_magnitude)


def _naive_obs(weight, hessian, damping, structure, share):
    """Column by column with an explicit inverse of the remaining Hessian, in float64."""
    weight, hessian = weight.double().clone(), hessian.double().clone()
    size = len(hessian)
    hessian += damping * hessian.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    costs = torch.stack([torch.linalg.inv(hessian[i:, i:])[0, 0] for i in range(size)])
    kept = torch.ones_like(weight, dtype=torch.bool)
    for i in range(size):
        if structure == "unstructured" and i % 128 == 0:
            block = weight[:, i : i + 128].square() / costs[i : i + 128]
            end = i + block.shape[1]
            count = round(len(weight) * end * share) - round(len(weight) * i * share)
            threshold = block.flatten().sort().values[count - 1]
            kept[:, i:end] = block > threshold
        elif structure != "unstructured" and i % (m := int(structure[2:])) == 0:
            group = weight[:, i : i + m].square() / costs[i : i + m]
            kept[:, i : i + m] = group >= group.sort(dim=1, descending=True).values[:, m // 2 - 1, None]
        inverse = torch.linalg.inv(hessian[i:, i:])
        pruned = torch.where(kept[:, i], 0.0, weight[:, i])
        weight[:, i:] -= pruned[:, None] * inverse[0] / inverse[0, 0]
    return weight.masked_fill(~kept, 0.0), kept


@pytest.mark.parametrize("structure", ["unstructured", "2:4", "4:8"])
@pytest.mark.parametrize("num_inputs", [24, 160])  # 160: more than one block of 128
def test_sparsegpt_is_obs(structure, num_inputs):
    torch.manual_seed(1)
    inputs = torch.randn(600, num_inputs) @ (torch.eye(num_inputs) + 0.2 * torch.randn(num_inputs, num_inputs))
    weight = torch.randn(5, num_inputs)
    hessian = inputs.T @ inputs
    expected, kept_expected = _naive_obs(weight, hessian, 0.01, structure, 0.5)
    actual, kept = sparsegpt(weight, hessian, structure=structure, sparsity=0.5, damping=0.01)
    assert torch.equal(kept, kept_expected)
    torch.testing.assert_close(actual.double(), expected, rtol=2e-3, atol=2e-3)


def test_gram_is_the_sum_over_batches():
    batches = [torch.randn(n, 600) for n in (7, 30)]
    everything = torch.cat(batches)
    actual = gram(iter(batches))
    assert torch.equal(actual, actual.T)
    torch.testing.assert_close(actual, everything.T @ everything, rtol=1e-4, atol=1e-4)


def test_sparsegpt_by_hand():
    # H = [[2, 1], [1, 1]], no damping to speak of: H^-1 = [[1, -1], [-1, 2]], so the factor's diagonal is (1, 1).
    # The costs are 1 and 9: the first weight goes, and the second moves by -w1 * (-1) / 1 = +1.
    weight, kept = sparsegpt(
        torch.tensor([[1.0, 3.0]]),
        torch.tensor([[2.0, 1.0], [1.0, 1.0]]),
        structure="unstructured",
        sparsity=0.5,
        damping=1e-7,
    )
    assert kept.tolist() == [[False, True]]
    torch.testing.assert_close(weight, torch.tensor([[0.0, 4.0]]), rtol=0, atol=1e-5)


def test_sparsegpt_survives_inputs_that_are_always_zero():
    weight, kept = sparsegpt(torch.ones(2, 8), torch.zeros(8, 8), structure="2:4", sparsity=0.5, damping=0.01)
    assert torch.isfinite(weight).all()
    assert kept.sum() == 8


def test_sparsegpt_names_a_hessian_without_inverse():
    with pytest.raises(SparsityError, match="4 inputs has no inverse"):
        sparsegpt(torch.ones(2, 4), -torch.eye(4), structure="2:4", sparsity=0.5, damping=0.01)
