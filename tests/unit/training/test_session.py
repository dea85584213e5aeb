"""Batches of a training session: each row once per epoch, in seeded order, in company of its length."""

import math

import pytest
import torch

from sau.models.batches import Encoded
from sau.training.session import batches


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
