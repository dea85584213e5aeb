"""What every combination has to keep: the mask bit for bit after every step, finite weights, the same bits again."""

import copy

import pytest
import torch

from sau.data.sets import Sets
from sau.mask import check_mask, check_structure, mask_digest
from sau.models.language_model import LanguageModel
from sau.pruners import PruneParams, prune
from sau.pruners.base import Pruner
from sau.registry import discover
from sau.unlearn.objectives.base import Objective
from sau.unlearn.redistribution.base import Redistribution
from sau.unlearn.unlearn import UnlearnParams, unlearn

OBJECTIVES = {name: {"name": name} for name in discover(Objective, "sau.unlearn.objectives")}
OBJECTIVES["pdu"]["eps"] = 1.0
PRUNERS = sorted(discover(Pruner, "sau.pruners"))
REDISTRIBUTIONS = sorted(discover(Redistribution, "sau.unlearn.redistribution"))
STRUCTURES = ["unstructured", "2:4"]
STEPS = 3


@pytest.fixture(scope="module")
def all_pruned(tiny, sets) -> dict[tuple[str, str], LanguageModel]:
    """The same small model, pruned in every way."""
    dense, models = tiny(hidden_size=16, intermediate_size=32), {}
    for pruner in PRUNERS:
        for structure in STRUCTURES:
            lm = models[pruner, structure] = copy.deepcopy(dense)
            prune(lm, lm.encode(sets.retain), PruneParams(pruner=pruner, structure=structure, sparsity=0.5))
    return models


def run(start: LanguageModel, sets: Sets, objective, redistribution) -> LanguageModel:
    lm = copy.deepcopy(start)
    params = UnlearnParams(
        objective=objective, redistribution=redistribution, lr=1e-3, max_steps=STEPS, batch_size=4, stop=None
    )
    steps = []

    def after_step(step: int, total: int, values: dict[str, float]) -> None:
        check_mask(lm.model, lm.mask)
        steps.append(step)

    few = Sets(sets.forget[:8], sets.retain[:8], sets.holdout[:2])
    unlearn(lm, few, params, seed=0, num_threads=1, progress=after_step)
    assert steps == list(range(1, STEPS + 1))
    return lm


def check(start: LanguageModel, sets: Sets, structure: str, objective, redistribution) -> None:
    first, second = (run(start, sets, objective, redistribution) for _ in range(2))
    assert mask_digest(first.mask) == mask_digest(start.mask)
    check_structure(first.mask, structure, 0.5)
    moved = 0
    for (name, before), after, again in zip(
        start.model.named_parameters(), first.model.parameters(), second.model.parameters(), strict=True
    ):
        assert after.isfinite().all(), name
        assert torch.equal(after.view(torch.int32), again.view(torch.int32)), f"{name}: other bits the second time"
        moved += int((after != before).sum())
    assert moved > 0


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objective_pruner_structure(all_pruned, sets, objective, pruner, structure):
    check(all_pruned[pruner, structure], sets, structure, OBJECTIVES[objective], "none")


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize("redistribution", REDISTRIBUTIONS)
@pytest.mark.parametrize("objective", ["npo", "grad_ascent", "rmu"])
def test_redistribution_objective_structure(all_pruned, sets, objective, redistribution, project, structure):
    check(
        all_pruned["wanda", structure],
        sets,
        structure,
        OBJECTIVES[objective],
        {"name": redistribution, "project": project},
    )
