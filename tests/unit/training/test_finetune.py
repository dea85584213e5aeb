"""Finetuning: it learns, keeps a mask, and refuses what cannot be learned from."""

import copy

import pytest
import torch

from sau.errors import DataError, DivergedError
from sau.mask import check_mask, mask_digest
from sau.training.finetune import FinetuneParams, finetune
from sau.unlearn.unlearn import mean_answer_logp


def test_finetune_learns_and_reports_each_epoch(sets, trained):
    lm = copy.deepcopy(trained)
    seen = []
    history = finetune(
        lm,
        lm.encode(sets.forget),
        FinetuneParams(epochs=3, lr=0.002, batch_size=8),
        seed=0,
        progress=lambda step, total, values: seen.append((step, total, values["loss"])),
    )
    assert history.steps == 9
    assert [entry["epoch"] for entry in history.trajectory] == [1, 2, 3]
    assert history.trajectory[-1]["loss"] < history.trajectory[0]["loss"]
    assert [s[:2] for s in seen] == [(i, 9) for i in range(1, 10)]
    assert sum(s[2] for s in seen[:3]) / 3 == pytest.approx(history.trajectory[0]["loss"])


def test_finetune_under_a_mask_recovers_and_keeps_it(sets, lm):
    digest = mask_digest(lm.mask)
    before = mean_answer_logp(lm, lm.encode(sets.retain))
    finetune(lm, lm.encode(sets.retain), FinetuneParams(epochs=4, lr=0.002), seed=0)
    check_mask(lm.model, lm.mask)
    assert mask_digest(lm.mask) == digest
    assert mean_answer_logp(lm, lm.encode(sets.retain)) > before


def test_frozen_embeddings_do_not_move_and_everything_else_does(weights, sets, lm):
    before = weights(lm)
    finetune(lm, lm.encode(sets.retain), FinetuneParams(epochs=1, lr=0.002, freeze_embeddings=True), seed=0)
    after = weights(lm)
    assert [name for name in before if torch.equal(before[name], after[name])] == ["model.embed_tokens.weight"]


def test_no_epochs_change_nothing(weights, same, sets, lm):
    before = weights(lm)
    history = finetune(lm, lm.encode(sets.retain), FinetuneParams(epochs=0, lr=0.1), seed=0)
    assert (history.steps, history.trajectory) == (0, [])
    assert same(before, weights(lm))


def test_finetune_diverges_by_name(sets, lm):
    with torch.no_grad():
        lm.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match="step 1, objective finetune: the loss is nan"):
        finetune(lm, lm.encode(sets.retain), FinetuneParams(epochs=1, lr=0.1), seed=0)


def test_finetune_without_rows_is_refused(lm):
    with pytest.raises(DataError, match="at least one row"):
        finetune(lm, [], FinetuneParams(epochs=1, lr=0.1), seed=0)
