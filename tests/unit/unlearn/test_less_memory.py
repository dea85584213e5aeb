"""A batch in parts, and blocks that are run again in the backward pass: less memory, and the same training."""

import copy

import pytest
import torch

from sau.models.batches import collate
from sau.models.checkpointing import checkpointed
from sau.models.packing import packs
from sau.models.scoring import logits_of, passes, targets_of, token_logps
from sau.registry import discover
from sau.training.finetune import AdaptParams, FinetuneParams, adapted, finetune
from sau.unlearn.objectives.base import Objective

OBJECTIVES = {name: {"name": name} for name in discover(Objective, "sau.unlearn.objectives")}
OBJECTIVES["pdu"]["eps"] = 1.0
QUICK = ("calibrated", "pdu")
"""Ours, and the one that adds up over parts what it remembers of a step."""


def spared(lm, micro_batch=None, gradient_checkpointing=False):
    copied = copy.deepcopy(lm)
    copied.micro_batch, copied.gradient_checkpointing = micro_batch, gradient_checkpointing
    return copied


@pytest.mark.parametrize(
    "objective",
    [pytest.param(o, id=n, marks=() if n in QUICK else pytest.mark.long) for n, o in OBJECTIVES.items()],
)
def test_parts_of_a_batch_add_up_to_it_and_checkpoints_change_no_bit(
    loop, params, pruned, sets, weights, same, objective
):
    """Over three steps, so that what an objective remembers of a step counts, too; a batch of 8 is 3, 3 and 2 rows."""
    seen, left = [], []
    for options in ({}, {"micro_batch": 3}, {"gradient_checkpointing": True}):
        lm, steps = spared(pruned, **options), []
        chosen = params(objective=objective, max_steps=3, lr=1e-4)
        loop(lm, chosen, base=pruned, watch=False, progress=lambda _s, _t, values, to=steps: to.append(values))
        seen.append(steps)
        left.append(weights(lm))
    for whole, parts in zip(seen[0], seen[1], strict=True):
        assert parts == pytest.approx(whole, rel=2e-4, abs=1e-6)
    assert seen[2] == seen[0]
    assert same(left[2], left[0])


def test_finetuning_weighs_parts_by_their_tokens(sets, trained, weights, same):
    seen, left = [], []
    for options in ({}, {"micro_batch": 1}, {"micro_batch": 8}, {"gradient_checkpointing": True}):
        lm, steps = spared(trained, **options), []
        finetune(
            lm, lm.encode(sets.forget), FinetuneParams(epochs=1, lr=1e-4, batch_size=8), seed=0, num_threads=1,
            progress=lambda _s, _t, values, to=steps: to.append(values["loss"]),
        )  # fmt: skip
        seen.append(steps)
        left.append(weights(lm))
    assert seen[1] == pytest.approx(seen[0], rel=1e-4)
    for found in left[2:]:
        assert same(found, left[0])


def test_a_copy_that_is_adapted_saves_memory_as_its_base_does(sets, trained, monkeypatch):
    sizes = []
    monkeypatch.setattr("sau.training.finetune.collate", lambda rows: sizes.append(len(rows)) or collate(rows))
    base = spared(trained, micro_batch=2)
    adapted(base, base.encode(sets.retain), AdaptParams(epochs=1, lr=1e-4, batch_size=8), seed=0)
    assert max(sizes) == 2
    assert "forward" not in vars(base.model.model.layers[0])


@pytest.mark.parametrize("packed", [True, False])
def test_blocks_are_run_again_with_the_attention_that_they_had(trained, sets, packed):
    """Sequences in a row are cut in attention, by a setting that is gone by the time of the backward pass."""
    lm = copy.deepcopy(trained)
    batch = collate(lm.encode(sets.forget[:3]))
    assert packs(lm.model)
    assert len(passes(lm.model, batch, packed=packed)) == 1 or not packed
    found, kept = [], []
    for opened in (False, True):
        lm.model.zero_grad()
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, to=saved: to.append(t.nbytes) or t, lambda t: t):
            if opened:
                with checkpointed(lm.model):
                    loss = -token_logps(logits_of(lm.model, batch, packed=packed), targets_of(batch)).mean()
                    loss.backward()
            else:
                loss = -token_logps(logits_of(lm.model, batch, packed=packed), targets_of(batch)).mean()
                loss.backward()
        kept.append(sum(saved))
        found.append([parameter.grad.clone() for parameter in lm.model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert kept[1] < 0.6 * kept[0]
    assert lm.model.config._attn_implementation == "sdpa"


def test_a_copy_made_while_blocks_are_checkpointed_has_blocks_of_its_own(trained, sets):
    lm = copy.deepcopy(trained)
    batch = collate(lm.encode(sets.forget[:2]))
    with checkpointed(lm.model):
        copied = copy.deepcopy(lm.model)
    with torch.no_grad():
        before = logits_of(lm.model, batch)
        for parameter in lm.model.parameters():
            parameter.zero_()
        assert torch.equal(logits_of(copied, batch), before)
