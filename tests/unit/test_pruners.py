"""Pruners against hand-derived numbers and naive references."""

import copy
import weakref

import pytest
import torch
from torch import nn

from sau.data.demo import demo_rows
from sau.errors import ConfigError, DataError, SparsityError
from sau.mask import check_mask, check_structure, sparsity
from sau.models.batches import Encoded
from sau.models.language_model import LanguageModel
from sau.models.layers import decoder_blocks, prunable
from sau.models.sources import ModelParams, TinyParams, base_model
from sau.pruners import PruneParams, prune
from sau.pruners.base import Pruner, keep_highest, lowest
from sau.pruners.layerwise import BATCH, halting_before, returning_freed_memory
from sau.pruners.sparsegpt import gram, sparsegpt
from sau.pruners.wanda import wanda_score
from sau.registry import build

PRUNERS = ["magnitude", "wanda", "sparsegpt"]


@pytest.fixture(scope="module")
def dense() -> LanguageModel:
    tiny = TinyParams(vocab_size=320, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=2)
    return base_model(ModelParams(tiny=tiny), seed=0)


@pytest.fixture(scope="module")
def rows():
    return demo_rows("calibration", seed=3)


@pytest.fixture
def lm(dense) -> LanguageModel:
    return copy.deepcopy(dense)


# -- comparing scores -----------------------------------------------------------------------------


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


# -- whole models ---------------------------------------------------------------------------------


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


@pytest.mark.parametrize("pruner", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("structure", ["unstructured", "4:8"])
def test_each_layer_sees_the_inputs_that_the_pruned_layers_before_it_give_and_no_padding(
    dense, rows, pruner, structure
):
    """Reference: one sequence at a time through the whole model, a fresh pass for each linear."""
    lm, reference = copy.deepcopy(dense), copy.deepcopy(dense)
    sequences = lm.encode(rows)
    assert len({len(s.input_ids) for s in sequences}) > 1
    mask = prune(lm, sequences, PruneParams(pruner=pruner, structure=structure))
    options = {"structure": structure, "sparsity": 0.5}
    for name, linear in prunable(reference.model):
        seen: list[torch.Tensor] = []
        hook = linear.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0][0]))
        with torch.no_grad():
            for sequence in sequences:
                reference.model(input_ids=torch.tensor([sequence.input_ids]))
        hook.remove()
        inputs, weight = torch.cat(seen).double(), linear.weight.data
        if pruner == "wanda":
            kept = keep_highest(wanda_score(weight, inputs.square().sum(0)), **options)
            weight.masked_fill_(~kept, 0.0)
        else:
            new, kept = sparsegpt(weight.double(), inputs.T @ inputs, damping=0.01, **options)
            weight.copy_(new)
        # Sums in another order may swap two weights whose scores differ in the last bit.
        assert (mask[f"{name}.weight"] == kept).float().mean() > 0.998


def test_activations_of_one_layer_are_held_at_a_time(dense, rows):
    """What the pass has computed and pruning no longer needs is gone, however many layers it has been through."""
    lm = copy.deepcopy(dense)
    sequences = lm.encode(rows)
    inputs_seen: list[list[weakref.ref]] = []
    most_alive = 0
    with torch.no_grad():
        for _, inputs in halting_before(dict(prunable(lm.model)), lm.model, sequences):
            inputs_seen.append([weakref.ref(x) for x, _ in inputs])
            del inputs
            alive = {id(ref()) for refs in inputs_seen for ref in refs if ref() is not None}
            most_alive = max(most_alive, len(alive))
    assert len(inputs_seen) == 14
    # Per batch the layer's own input, and those of the linears before it that the block's code still names.
    assert most_alive <= 2 * len(inputs_seen[0])


def test_a_refusal_in_the_middle_of_the_pass_leaves_no_hook_behind(dense, rows):
    lm = copy.deepcopy(dense)
    with pytest.raises(SparsityError, match="no multiple of 5"):
        prune(lm, lm.encode(rows), PruneParams(pruner="wanda", structure="1:5", sparsity=0.8))
    assert not any(linear._forward_pre_hooks for _, linear in prunable(lm.model))


def test_without_glibc_memory_is_left_to_itself(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    with returning_freed_memory() as give_back:
        assert give_back() is None


class _Experts(nn.Module):
    """Two linears, of which each sequence sees those that `visits` names, in that order."""

    def __init__(self, visits: dict[int, list[str]]) -> None:
        super().__init__()
        self.visits = visits
        self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

    def forward(self, input_ids, attention_mask, use_cache):
        hidden = nn.functional.one_hot(input_ids, 4).float()
        for name in self.visits[int(input_ids[0, 0])]:
            hidden = self.get_submodule(name)(hidden)


class _Parallel(_Experts):
    """The same, but every linear reads the very same tensor."""

    def forward(self, input_ids, attention_mask, use_cache):
        hidden = nn.functional.one_hot(input_ids, 4).float()
        for name in self.visits[int(input_ids[0, 0])]:
            self.get_submodule(name)(hidden)


def _paths(*visits: list[str], model: type[_Experts] = _Experts) -> tuple[_Experts, list[Encoded]]:
    sequences = [Encoded((n, n, n) + (1,) * n, prompt_length=1) for n in range(len(visits)) for _ in range(BATCH)]
    return model(dict(enumerate(visits))), sequences


@pytest.mark.parametrize(
    ("visits", "batches_seen"),
    [
        ([["a", "b"], ["a", "b"]], [("a", 2), ("b", 0)]),  # the same inputs: not yielded again
        ([["a", "b"], ["b"]], [("a", 1), ("b", 2)]),  # another batch stands before b already
    ],
)
def test_linears_that_read_the_same_tensor_halt_the_pass_once(visits, batches_seen):
    model, sequences = _paths(*visits, model=_Parallel)
    with torch.no_grad():
        halts = halting_before(dict(prunable(model)), model, sequences)
        assert [(name, len(inputs)) for name, inputs in halts] == batches_seen


def test_query_key_value_and_gate_up_share_their_inputs(dense, rows):
    lm = copy.deepcopy(dense)
    with torch.no_grad():
        halts = halting_before(dict(prunable(lm.model)), lm.model, lm.encode(rows))
        shared = {name.rpartition(".")[2] for name, inputs in halts if not inputs}
    assert shared == {"k_proj", "v_proj", "up_proj"}


def test_layers_that_only_some_batches_reach():
    model, sequences = _paths(["a", "b"], ["b"])
    model.a.weight.data.fill_(1.0)
    mask = build(Pruner, "sau.pruners", "wanda").prune(model, sequences, structure="unstructured", sparsity=0.5)
    # `a` saw token 0 alone: input 0 stays, and of the three equal scores the last.
    assert mask["a.weight"].tolist() == [[True, False, False, True]] * 4


@pytest.mark.parametrize(
    ("visits", "message"), [(["a"], "b: saw no calibration token"), (["a", "a", "b"], "a: is used again")]
)
def test_layers_used_never_or_twice(visits, message):
    model, sequences = _paths(visits)
    pruner = build(Pruner, "sau.pruners", "wanda")
    with pytest.raises(SparsityError, match=message):
        pruner.prune(model, sequences, structure="unstructured", sparsity=0.5)


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


# -- SparseGPT against the definition -------------------------------------------------------------


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


# -- refusals -------------------------------------------------------------------------------------


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
