"""Updates that can be taken off: a low-rank one is told from one that moves every weight, mask or not."""

import copy
from dataclasses import replace

import pytest
import torch

from sau.models.layers import prunable
from sau.pruners import PruneParams, prune
from sau.verify import load_policy
from sau.verify.evidence.directions import share_in_few_directions
from sau.verify.policy import Policy


def changed(lm, rank):
    """A copy whose survivors have moved by noise of this rank; None: of full rank."""
    other, generator = replace(lm, model=copy.deepcopy(lm.model)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, matrix in prunable(other.model):
            outputs, inputs = matrix.weight.shape
            noise = torch.randn(outputs, rank or inputs, generator=generator)
            noise = noise @ torch.randn(rank, inputs, generator=generator) if rank else noise
            matrix.weight.add_(0.01 * noise * (lm.mask[matrix.name] if lm.mask else 1.0))
    return other


@pytest.fixture(scope="module")
def sparse(tiny, sets):
    lm = tiny(hidden_size=64, intermediate_size=128)
    prune(lm, lm.encode(sets.retain[:8]), PruneParams.model_validate({"pruner": "magnitude", "sparsity": 0.5}))
    return lm


@pytest.mark.parametrize("masked", [True, False])
def test_an_adapter_is_explained_whole_and_what_moves_every_weight_is_not(sparse, masked):
    lm = sparse if masked else replace(sparse, mask=None)
    share, matrices = share_in_few_directions(changed(lm, 2), lm)
    assert share > 0.98
    assert matrices == len(list(prunable(lm.model)))
    assert share_in_few_directions(changed(lm, None), lm)[0] < 0.6


def test_no_change_is_nothing_and_another_model_cannot_be_compared(sparse, tiny):
    assert share_in_few_directions(sparse, sparse) == (0.0, 0)
    assert share_in_few_directions(sparse, tiny()) is None


def test_a_verdict_sees_an_adapter(verified, by_id, all_mandatory, sets, before, retrained, tiny):
    fields = all_mandatory.model_dump(mode="json")
    policy = Policy.model_validate(fields | {"checks": [*fields["checks"], {"name": "few_directions"}]})
    adapter = by_id(verified(changed(before, 2), before, None, policy))["few_directions"]
    assert (adapter.verdict, adapter.before) == ("FAIL", 0.0)
    assert by_id(verified(retrained, before, None, policy))["few_directions"].verdict == "PASS"
    other = tiny(vocab_size=512, hidden_size=64, intermediate_size=96)
    assert by_id(verified(other, before, None, policy))["few_directions"].verdict == "NOT APPLICABLE"


def test_the_policies_that_decide_what_ships_look_for_it():
    for name in ("standard", "strict"):
        assert [check.mandatory for check in load_policy(name).checks if check.name == "few_directions"] == [True]
