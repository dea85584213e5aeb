"""Sabotage: broken models, swapped roles, missing rows and failing checks; none of these may pass."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sau.verify import gathering
from sau.verify.checks.membership import MembershipCheck
from sau.verify.evidence.readings import Reading, TokenScores


def broken(lm, change):
    """A copy with `change` done to every weight."""
    damaged = replace(lm, model=copy.deepcopy(lm.model))
    with torch.no_grad():
        for weight in damaged.model.parameters():
            change(weight)
    return damaged


def nan_weights(weight):
    weight.fill_(float("nan"))


def zero_weights(weight):
    weight.zero_()


@pytest.mark.parametrize("change", [nan_weights, zero_weights])
@pytest.mark.parametrize("role", ["model", "before", "reference"])
def test_nan_and_constant_models_never_pass(verified, role, change, retrained, before, reference):
    roles = {"model": retrained, "before": before, "reference": reference}
    result = verified(**{**roles, role: broken(roles[role], change)})
    assert result.verdict != "PASS"
    json.dumps(result.to_json(), allow_nan=False)


def test_a_nan_model_is_inconclusive_and_says_why(verified, by_id, before, reference):
    result = verified(broken(before, nan_weights), before, reference)
    assert result.verdict == "INCONCLUSIVE"
    assert "not finite" in by_id(result)["residual_knowledge"].reason


@pytest.mark.parametrize(
    ("model", "first", "second"),
    [
        ("before", "before", "reference"),  # no-op unlearning
        ("retrained", "reference", "before"),  # controls swapped
        ("retrained", "reference", "reference"),  # a control that cannot detect anything
        ("before", "before", "before"),  # a reference that saw the records
        ("retrained", "before", "before"),
    ],
)
def test_swapped_models_never_pass(verified, model, first, second, request):
    models = [request.getfixturevalue(name) for name in (model, first, second)]
    assert verified(*models).verdict != "PASS"


def test_swapped_labels_never_pass(verified, sets, retrained, before, reference):
    swapped = {"forget": sets.holdout[:20], "holdout": sets.forget}
    assert verified(retrained, before, reference, **swapped).verdict != "PASS"
    assert verified(before, before, reference, **swapped).verdict != "PASS"


def test_tied_scores_never_pass(verified, retrained, before, reference, monkeypatch):
    def tied(lm, rows, parts=frozenset(), **kwargs):
        answer = TokenScores(np.full(4, -1.0), np.zeros(4, bool), np.full(4, -1.0), np.ones(4))
        return Reading((answer,) * len(rows), np.ones(len(rows)), "x")

    monkeypatch.setattr(gathering, "read", tied)
    result = verified(retrained, before, reference)
    assert result.verdict == "INCONCLUSIVE"


def test_a_check_that_raises_never_passes_and_quotes_nothing(
    verified, by_id, sets, retrained, before, reference, monkeypatch
):
    def explode(self, model, bench):
        raise RuntimeError(sets.forget[0]["answer"])

    monkeypatch.setattr(MembershipCheck, "measure", explode)
    result = verified(retrained, before, reference)
    assert result.verdict == "INCONCLUSIVE"
    assert "RuntimeError" in by_id(result)["membership/mia_min_k"].reason
    assert sets.forget[0]["answer"] not in json.dumps(result.to_json())


def test_reading_that_raises_never_passes(verified, retrained, before, reference, monkeypatch):
    def explode(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(gathering, "sum_logps", explode)
    result = verified(retrained, before, reference)
    assert result.verdict == "INCONCLUSIVE"
    assert all("MemoryError" in f.reason for f in result.checks)


def test_an_empty_or_small_holdout_never_passes(verified, by_id, sets, retrained, before, reference):
    for holdout in ([], sets.holdout[:5]):
        result = verified(retrained, before, reference, holdout=holdout)
        assert result.verdict == "INCONCLUSIVE"
        assert f"{len(holdout)} holdout records" in by_id(result)["membership/mia_min_k"].reason


def test_few_forget_records_never_pass(verified, sets, retrained, before, reference):
    assert verified(retrained, before, reference, forget=sets.forget[:3]).verdict == "INCONCLUSIVE"


def test_one_record_is_enough_to_fail(verified, by_id, all_mandatory, sets, before, reference):
    policy = all_mandatory.model_copy(update={"num_decoys": 99})
    single = verified(before, before, reference, policy, forget=sets.forget[1:2])
    assert by_id(single)["decoy_rank"].verdict == "FAIL"
    assert by_id(single)["decoy_rank"].n == 1
    assert single.verdict == "FAIL"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forget": lambda _: []}, "no forget record"),
        ({"retain": lambda _: []}, "no retain record"),
        ({"retain": lambda its: its.retain + its.forget[:2]}, "2 records are both in the forget and the retain set"),
        ({"holdout": lambda its: its.holdout + its.forget[:1]}, "1 records are both in the forget and the holdout set"),
    ],
)
def test_contradictory_sets_are_refused(verified, sets, retrained, before, reference, changes, message):
    result = verified(retrained, before, reference, **{name: rows(sets) for name, rows in changes.items()})
    assert result.verdict == "REFUSED"
    assert message in result.reasons[0]


def test_a_wrong_tokenizer_never_passes(tiny, verified, retrained, before, reference):
    other = tiny(vocab_size=400)
    result = verified(replace(retrained, tokenizer=other.tokenizer), before, reference)
    assert result.verdict == "INCONCLUSIVE"
    assert "same tokens" in result.reasons[0]


def test_a_verdict_speaks_of_one_digest(verified, retrained, before, reference):
    result = verified(retrained, before, reference)
    assert result.passes("d" * 64)
    assert not result.passes("e" * 64)
    assert not verified(before, before, reference).passes("d" * 64)
