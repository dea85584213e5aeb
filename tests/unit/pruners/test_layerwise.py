"""Pruning layer by layer: what each linear sees, how much is held meanwhile, and calibration rows divided."""

import copy
import itertools
import weakref

import pytest
import torch
from torch import nn

from sau.errors import SparsityError
from sau.mask import mask_digest
from sau.models.batches import Encoded
from sau.models.layers import prunable
from sau.models.ranks import ALONE, set_ranks
from sau.pruners import PruneParams, prune
from sau.pruners.base import Pruner, keep_highest
from sau.pruners.layerwise import BATCH, LayerwisePruner, halting_before, returning_freed_memory
from sau.pruners.sparsegpt import sparsegpt
from sau.pruners.wanda import wanda_score
from sau.registry import build
from tests.together import several


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
        hook = linear.module.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0][0]))
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
    assert not any(linear.module._forward_pre_hooks for _, linear in prunable(lm.model))


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


CASES = [
    ("wanda", "unstructured", 5 * BATCH + 1),
    ("wanda", "2:4", 3 * BATCH),
    ("sparsegpt", "unstructured", 3 * BATCH),
    ("sparsegpt", "2:4", 5 * BATCH + 1),
    ("sparsegpt", "unstructured", BATCH),  # the other processes have no row
    ("magnitude", "unstructured", BATCH),
]
VISITS = [
    (_Experts, (["a", "b"], ["b"])),
    (_Experts, (["b"], ["a", "b"], ["a"])),
    (_Parallel, (["a", "b"], ["b"])),
    (_Parallel, (["a", "b"], ["a", "b"], ["a", "b"])),
    (_Parallel, (["a", "b"],)),
]


def noted(kind: type[LayerwisePruner], known: list[torch.Tensor]) -> type[LayerwisePruner]:
    """The pruner, which notes the statistics that it is given, of all tokens of all processes."""

    class Noted(kind):
        def ready(self, statistic):
            known.append(statistic.clone())
            return super().ready(statistic)

    return Noted


def pruned(lm, sequences, case, ranks):
    """Mask digest, statistics and weights."""
    lm, known = copy.deepcopy(lm), []
    name, structure, number = case
    pruner = build(Pruner, "sau.pruners", name)
    if isinstance(pruner, LayerwisePruner):
        pruner = noted(type(pruner), known)()
    set_ranks(lm.model, ranks)
    params = PruneParams(structure=structure).model_copy(update={"pruner": pruner})
    mask = prune(lm, sequences[:number], params)
    return mask_digest(mask), known, dict(lm.model.state_dict())


def visited(kind, visits, ranks):
    """The same of a model whose batches do not all reach every linear."""
    torch.manual_seed(0)
    model, sequences = _paths(*visits, model=kind)
    set_ranks(model, ranks)
    mask = build(Pruner, "sau.pruners", "wanda").prune(model, sequences, structure="unstructured", sparsity=0.5)
    return mask_digest(mask)


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.long)])
def test_several_processes_prune_as_one(dense, rows, tmp_path, processes):
    sequences: list[Encoded] = list(itertools.islice(itertools.cycle(dense.encode(rows)), 5 * BATCH + 1))

    def work(ranks):
        found = [pruned(dense, sequences, case, ranks) for case in CASES]
        return found, [visited(*case, ranks) for case in VISITS]

    alone, paths_alone = work(ALONE)
    for found, visits in several(processes, work, tmp_path):
        assert visits == paths_alone
        for case, expected, given in zip(CASES, alone, found, strict=True):
            assert given[0] == expected[0], case
            assert len(given[1]) == len(expected[1]) == (0 if case[0] == "magnitude" else 8)
            for one, other in zip(expected[1], given[1], strict=True):
                assert (one - other).abs().max() <= 1e-6 * one.abs().max(), case
            for name, weight in expected[2].items():
                assert torch.allclose(given[2][name], weight, atol=1e-5), (case, name)
