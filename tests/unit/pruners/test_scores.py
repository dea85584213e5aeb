"""Scores, and comparing them within a row or group, by hand."""

import pytest
import torch

from sau.errors import SparsityError
from sau.pruners.base import keep_highest, lowest
from sau.pruners.wanda import wanda_score


def test_unstructured_compares_within_each_row():
    score = torch.tensor([[1.0, 4.0, 3.0, 2.0], [40.0, 10.0, 20.0, 30.0]])
    kept = keep_highest(score, structure="unstructured", sparsity=0.5)
    assert kept.tolist() == [[False, True, True, False], [True, False, False, True]]


def test_unstructured_rounds_instead_of_truncating():
    kept = keep_highest(torch.rand(3, 8), structure="unstructured", sparsity=0.6)
    assert (~kept).sum(1).tolist() == [5, 5, 5]  # 4.8, int() would give 4


def test_two_of_four_keeps_two_in_each_group():
    score = torch.tensor([[1.0, 2.0, 3.0, 4.0, 9.0, 8.0, 0.0, 7.0]])
    kept = keep_highest(score, structure="2:4", sparsity=0.5)
    assert kept.tolist() == [[False, False, True, True, True, True, False, False]]


def test_of_equal_scores_exactly_the_right_number_goes():
    kept = keep_highest(torch.zeros(2, 6), structure="unstructured", sparsity=0.5)
    assert kept.tolist() == [[False] * 3 + [True] * 3] * 2


@pytest.mark.parametrize("count", [0, 1, 5, 12, 13])
def test_lowest_is_what_a_stable_sort_puts_first(count):
    score = torch.randint(0, 4, (50, 13)).float()
    expected = torch.zeros_like(score, dtype=torch.bool)
    expected.scatter_(1, score.argsort(dim=1, stable=True)[:, :count], True)
    assert torch.equal(lowest(score, count), expected)


def test_row_that_does_not_divide_into_groups():
    with pytest.raises(SparsityError, match="6 inputs are no multiple of 4"):
        keep_highest(torch.rand(2, 6), structure="2:4", sparsity=0.5)


def test_wanda_score_by_hand():
    score = wanda_score(torch.tensor([[-2.0, 1.0]]), torch.tensor([9.0, 100.0]).double())
    assert score.tolist() == [[6.0, 10.0]]  # the smaller weight wins: its input is larger
