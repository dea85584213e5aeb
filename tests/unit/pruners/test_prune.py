"""Whole models pruned: the mask that was asked for, the same bits again, refusals."""

import copy

import pytest
import torch
from torch import nn

from sau.errors import ConfigError, DataError, SparsityError
from sau.mask import check_mask, check_structure, sparsity
from sau.models.layers import decoder_blocks, prunable
from sau.pruners import PruneParams, prune

PRUNERS = ["magnitude", "wanda", "sparsegpt"]


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize(
    ("structure", "share"), [("unstructured", 0.6), ("unstructured", 0.13), ("2:4", 0.5), ("4:8", 0.5), ("1:4", 0.75)]
)
def test_mask_is_what_was_asked_for_and_zeros_are_exact(lm, rows, pruner, structure, share):
    before = {name: linear.weight.clone() for name, linear in prunable(lm.model)}
    embedding = lm.model.get_input_embeddings().weight.clone()
    calls = []
    mask = prune(
        lm,
        lm.encode(rows),
        PruneParams(pruner=pruner, structure=structure, sparsity=share),
        progress=lambda done, total, values: calls.append((done, total)),
    )
    assert lm.mask is mask
    assert mask.keys() == {f"{name}.weight" for name in before}
    check_structure(mask, structure, share)
    check_mask(lm.model, mask)
    assert sparsity(mask) == pytest.approx(share, abs=0.02)
    assert torch.equal(lm.model.get_input_embeddings().weight, embedding)
    assert calls[-1][0] == calls[-1][1] == len(calls)
    if pruner != "sparsegpt":
        for name, linear in prunable(lm.model):
            kept = mask[f"{name}.weight"]
            assert torch.equal(linear.weight[kept], before[name][kept])


@pytest.mark.parametrize("pruner", PRUNERS)
def test_pruning_twice_gives_the_same_bits(dense, rows, pruner):
    results = []
    for _ in range(2):
        lm = copy.deepcopy(dense)
        prune(lm, lm.encode(rows), PruneParams(pruner=pruner))
        results.append(lm.model.state_dict())
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def test_refusals(lm, rows):
    sequences = lm.encode(rows)
    with pytest.raises(ConfigError, match="did you mean 'wanda'"):
        prune(lm, sequences, PruneParams(pruner="wandaa"))
    with pytest.raises(ConfigError, match=r"sparsity 0.5: structure 1:4 means 0.75"):
        prune(lm, sequences, PruneParams(structure="1:4"))
    with pytest.raises(DataError, match="calibration"):
        prune(lm, [], PruneParams(pruner="wanda"))
    with pytest.raises(SparsityError, match="no multiple of 5"):
        prune(lm, sequences, PruneParams(pruner="magnitude", structure="1:5", sparsity=0.8))
    assert lm.mask is None


def test_model_whose_linears_lie_in_no_block_list():
    with pytest.raises(SparsityError, match="no list of decoder blocks"):
        decoder_blocks(nn.Sequential(nn.Linear(4, 4)))


@pytest.mark.parametrize("pruner", PRUNERS)
def test_a_weight_that_is_not_finite_is_named(lm, rows, pruner):
    name = "model.layers.1.mlp.up_proj.weight"
    lm.model.get_parameter(name).data[0, 0] = float("nan")
    with pytest.raises(SparsityError, match=f"^{name}: holds numbers that are not finite"):
        prune(lm, lm.encode(rows), PruneParams(pruner=pruner))


def test_too_little_damping_names_the_layer_and_what_helps(lm, rows):
    params = PruneParams(pruner={"name": "sparsegpt", "damping": 1e-9})
    with pytest.raises(SparsityError, match=r"^model\.layers\.\d\.\w+\.\w+: sparsegpt: .* a larger damping or more"):
        prune(lm, lm.encode(rows[:1]), params)


@pytest.mark.parametrize("pruner", ["wanda", "sparsegpt"])
def test_inputs_that_overflow_are_named(lm, rows, pruner):
    lm.model.model.layers[1].input_layernorm.weight.data.fill_(3e38)
    with pytest.raises(SparsityError, match=r"^model\.layers\.1\.self_attn\.q_proj: its inputs .* are not finite"):
        prune(lm, lm.encode(rows), PruneParams(pruner=pruner))
