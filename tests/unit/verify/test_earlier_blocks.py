"""Earlier blocks: what only the last ones hide is seen, and a model is read before them as if they were not there."""

import copy
from dataclasses import replace

import pytest
import torch

from sau.models.batches import collate
from sau.models.layers import decoder_blocks
from sau.models.scoring import logits_of, targets_of, token_logps
from sau.verify.evidence.exits import exits
from sau.verify.evidence.likelihoods import mean_logps
from sau.verify.evidence.readings import read
from sau.verify.policy import Policy


@pytest.fixture(scope="module")
def policy(all_mandatory):
    """The quick policy beside people, with this check."""
    fields = all_mandatory.model_dump(mode="json") | {"against": "population", "min_people": 10}
    return Policy.model_validate(fields | {"checks": [*fields["checks"], {"name": "earlier_blocks"}]})


@pytest.fixture(scope="module")
def hidden(before, reference, sets):
    """A model whose last block alone was trained to look as if it had never seen the rows."""
    lm = replace(before, model=copy.deepcopy(before.model))
    last = list(decoder_blocks(lm.model)[1][-1].parameters())
    forget, retain = collate(lm.encode(sets.forget)), collate(lm.encode(sets.retain))
    lengths = forget.answer_mask_BT.sum(1)
    level_B = torch.tensor(mean_logps(reference, lm.encode(sets.forget)), dtype=torch.float32)
    optimizer = torch.optim.AdamW(last, lr=3e-3)
    for _ in range(120):
        asked_N, retain_N = (token_logps(logits_of(lm.model, batch), targets_of(batch)) for batch in (forget, retain))
        mean_B = torch.stack([logp.mean() for logp in asked_N.split(lengths.tolist())])
        loss = (mean_B - level_B).square().mean() - retain_N.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return lm


def test_what_the_last_block_hides_is_seen(verified, by_id, policy, hidden, strangers, before):
    result = verified(hidden, before, None, policy, holdout=strangers)
    found = by_id(result)
    assert found["residual_knowledge"].value < 0.3, "as it was asked nothing is left"
    assert found["earlier_blocks"].verdict == "FAIL"
    assert "after block 1" in found["earlier_blocks"].reason
    assert result.verdict == "FAIL"


def test_a_model_that_never_saw_the_records_does_not_fail_it(verified, by_id, policy, retrained, strangers, before):
    found = by_id(verified(retrained, before, None, policy, holdout=strangers))["earlier_blocks"]
    assert found.verdict != "FAIL"
    assert found.value < 0.4


def test_leaving_early_is_the_model_without_its_last_blocks(tiny, sets):
    lm = tiny(num_layers=3)
    encoded = lm.encode(sets.forget)
    whole = mean_logps(lm, encoded)
    found = read(lm, sets.forget, frozenset({"exits"})).exits
    assert list(found) == [2, 1]
    for number, values in found.items():
        shorter = copy.deepcopy(lm)
        shorter.model.model.layers = shorter.model.model.layers[:number]
        assert values == pytest.approx(mean_logps(shorter, encoded), abs=1e-5)
    assert mean_logps(lm, encoded) == pytest.approx(whole), "the blocks are back"


@pytest.mark.parametrize(("blocks", "places"), [(1, []), (2, [1]), (4, [3, 2]), (30, [29, 22, 15])])
def test_the_exits(blocks, places):
    assert exits(blocks) == places


def test_a_reading_has_the_exits_that_were_asked_for(before, sets):
    assert list(read(before, sets.forget, frozenset({"exits"})).exits) == [1]
    assert read(before, sets.forget).exits == {}
