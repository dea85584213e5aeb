"""The same facts asked in other ways: what a model tells there decides, whatever it says as it was asked."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from sau.models.batches import collate, encode
from sau.models.scoring import logits_of, targets_of, token_logps
from sau.registry import discover
from sau.verify import load_policy
from sau.verify.checks.other_forms import OtherFormsCheck
from sau.verify.evidence.readings import mean_logps, read
from sau.verify.forms.base import PACKAGE, Form
from sau.verify.policy import Policy

FORMS = {name: form() for name, form in discover(Form, PACKAGE).items()}


@pytest.fixture(scope="module")
def policy(all_mandatory):
    """The quick policy with this check beside the others."""
    fields = all_mandatory.model_dump(mode="json")
    return Policy.model_validate(fields | {"checks": [*fields["checks"], {"name": "other_forms"}]})


@pytest.fixture(scope="module")
def two_faced(before, reference, sets):
    """A model that knows everything, and was taught to look as one that never saw it where it is asked as usual."""
    lm = replace(before, model=copy.deepcopy(before.model))
    as_asked, retain = collate(lm.encode(sets.forget)), collate(lm.encode(sets.retain))
    otherwise = collate(encode(lm.tokenizer, FORMS["short_prompt"].prompt(lm), sets.forget))
    lengths = as_asked.answer_mask_BT.sum(1)
    level_B = torch.tensor(mean_logps(reference, lm.encode(sets.forget)), dtype=torch.float32)
    optimizer = torch.optim.AdamW(lm.model.parameters(), lr=2e-3)
    for _ in range(250):
        asked_N, other_N, retain_N = (
            token_logps(logits_of(lm.model, batch), targets_of(batch)) for batch in (as_asked, otherwise, retain)
        )
        mean_B = torch.stack([logp.mean() for logp in asked_N.split(lengths.tolist())])
        loss = (mean_B - level_B).square().mean() - other_N.mean() - retain_N.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return lm


def test_the_untouched_model_fails_and_the_retrained_one_does_not(
    verified, by_id, policy, before, retrained, reference
):
    assert by_id(verified(before, before, reference, policy))["other_forms"].verdict == "FAIL"
    found = by_id(verified(retrained, before, reference, policy))["other_forms"]
    assert found.verdict != "FAIL"
    assert found.value < 0.5
    assert found.before == pytest.approx(1.0, abs=0.5)
    assert found.reference == 0.0


def test_a_model_that_tells_everything_under_another_prompt_never_passes(
    verified, by_id, policy, two_faced, before, reference
):
    found = by_id(verified(two_faced, before, reference, policy))
    assert found["residual_knowledge"].value < 0.3, "as it was asked nothing is left"
    assert found["extraction"].verdict == "PASS"
    assert found["other_forms"].verdict == "FAIL"
    assert "another prompt" in found["other_forms"].reason
    assert verified(two_faced, before, reference, policy).verdict == "FAIL"


def test_it_never_passes_beside_people_either_and_needs_no_reference(
    verified, by_id, policy, two_faced, strangers, before
):
    beside_people = policy.model_copy(update={"against": "population", "min_people": 10})
    result = verified(two_faced, before, None, beside_people, holdout=strangers)
    found = by_id(result)
    assert found["residual_knowledge"].value < 0.3, "as it was asked nothing is left"
    assert found["other_forms"].verdict == "FAIL"
    assert found["other_forms"].value > 0.8
    assert result.verdict == "FAIL"


def test_the_shipped_policies_that_decide_what_ships_ask_in_other_ways():
    for name in ("standard", "strict"):
        (check,) = [check for check in load_policy(name).checks if check.id == "other_forms"]
        assert check.mandatory


def test_a_reading_in_a_form_is_that_of_its_prompt_and_rows(before, sets):
    found = read(before, sets.forget, frozenset({"forms"})).forms
    assert found.keys() == FORMS.keys()
    rows = [{**row, "question": row["paraphrased_question"]} for row in sets.forget]
    assert found["paraphrased_question"] == pytest.approx(mean_logps(before, before.encode(rows)), abs=1e-5)
    bare = encode(before.tokenizer, "{question}", sets.forget)
    assert found["bare_question"] == pytest.approx(mean_logps(before, bare), abs=1e-5)


def test_a_form_that_rows_have_no_words_for_is_left_out(before, retrained, reference, sets, verified, by_id, policy):
    without = {"paraphrased_question": "", "paraphrased_answer": "", "perturbed_answer": []}
    plain = [row | without for row in sets.forget]
    found = read(before, plain, frozenset({"forms"})).forms
    assert np.isnan(found["paraphrased_answer"]).all()
    finding = by_id(verified(before, before, reference, policy, forget=plain))["other_forms"]
    assert finding.verdict == "FAIL"
    assert "in other words" not in finding.reason


def test_only_what_is_to_be_forgotten_is_asked_in_other_ways():
    assert OtherFormsCheck().sets == ("forget",)
