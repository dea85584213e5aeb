"""The mask of a model that is sparse already: told from its zeros, and not taken for one where they are accidental."""

import copy

import pytest
import torch

from sau.mask import mask_digest, sparsity
from sau.models.layers import prunable
from sau.pruners.base import keep_highest
from sau.pruners.found import find_mask, look_at


def pruned(structure):
    def change(weight):
        weight.masked_fill_(~keep_highest(weight.abs(), structure=structure, sparsity=0.5), 0.0)

    return change


def below(threshold):
    return lambda weight: weight.masked_fill_(weight.abs() < threshold, 0.0)


def quantised(bits):
    def change(weight):
        groups = weight.reshape(-1, 32)
        scale = groups.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        weight.copy_(((groups / scale).round() * scale).view_as(weight))

    return change


def first_rows(weight):
    weight[: len(weight) // 4] = 0


def first_columns(weight):
    weight[:, : weight.shape[1] // 4] = 0


def scattered(weight):
    weight.masked_fill_(torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.1, 0.0)


@pytest.fixture
def changed(dense):
    """A copy of a dense model, each matrix changed."""

    @torch.no_grad()
    def make(change, only=""):
        model = copy.deepcopy(dense.model)
        for name, matrix in prunable(model):
            if only in name:
                change(matrix.weight)
        return model

    return make


@pytest.mark.parametrize(
    ("change", "structure", "pattern"),
    [
        (pruned("2:4"), "2:4", "2:4"),
        (pruned("1:4"), "1:4", "1:4"),
        (pruned("4:8"), "4:8", "4:8"),
        (pruned("unstructured"), "unstructured", "even rows"),
        (below(0.01), "unstructured", ""),
        (first_rows, "unstructured", "rows"),
        (first_columns, "unstructured", "columns"),
    ],
)
def test_a_mask_is_told_by_its_pattern_or_by_how_much_it_takes(changed, change, structure, pattern):
    model = changed(change)
    found = find_mask(model)
    assert found.structure == structure
    assert {zeros.pattern for zeros in found.matrices.values()} == {pattern}
    for name, parameter in model.named_parameters():
        if name in found.mask:
            assert torch.equal(found.mask[name], parameter != 0)


@pytest.mark.parametrize("change", [lambda weight: None, scattered, quantised(4), quantised(3), quantised(2)])
def test_accidental_zeros_are_no_mask(changed, change):
    found = find_mask(changed(change))
    assert (found.mask, found.structure) == (None, "dense")
    assert not any(zeros.masked for zeros in found.matrices.values())


def test_what_zeros_are_can_be_said(changed):
    model = changed(quantised(2))
    assert find_mask(model).on_levels
    assert "quantisation" in find_mask(model).words
    assert sparsity(find_mask(model, "mask").mask) == pytest.approx(find_mask(model).sparsity, abs=1e-6)
    assert find_mask(changed(pruned("2:4")), "dense").mask is None


def test_a_matrix_that_was_left_dense_is_kept_whole(changed):
    found = find_mask(changed(pruned("2:4"), only="mlp"))
    assert found.structure == "2:4"
    attention = [kept for name, kept in found.mask.items() if "attn" in name]
    assert attention
    assert all(bool(kept.all()) for kept in attention)
    assert "6 of 14 matrices, 8 left dense" in found.words


def test_zeros_of_either_sign_are_zeros(changed):
    positive, negative = changed(pruned("2:4")), changed(pruned("2:4"))
    for _, matrix in prunable(negative):
        with torch.no_grad():
            matrix.weight.copy_(torch.where(matrix.weight == 0, -0.0, matrix.weight))
    assert mask_digest(find_mask(positive).mask) == mask_digest(find_mask(negative).mask)


def test_a_survivor_that_is_zero_leaves_a_pattern_what_it_is(changed):
    weight = next(m for _, m in prunable(changed(pruned("2:4")))).weight.detach().clone()
    weight[0, weight[0].nonzero()[0]] = 0
    assert look_at(weight).pattern == "2:4"
