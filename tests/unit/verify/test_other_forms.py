"""The same facts asked in other ways: what a model tells there decides, whatever it says as it was asked."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from sau.data.sets import by_person
from sau.models.batches import collate, encode
from sau.models.scoring import logits_of, targets_of, token_logps
from sau.registry import discover
from sau.verify import load_policy
from sau.verify.checks.base import Evidence
from sau.verify.checks.other_forms import OtherFormsCheck
from sau.verify.checks.people import share_left
from sau.verify.evidence.in_forms import in_forms
from sau.verify.evidence.likelihoods import mean_logps
from sau.verify.evidence.readings import read
from sau.verify.forms.base import PACKAGE, Around, Form
from sau.verify.forms.two_clues import name_of
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


def test_a_choice_of_answers_is_between_the_true_one_and_false_ones_in_the_same_words(before, sets):
    rows = sets.forget[:3]
    found = read(before, rows, frozenset({"forms"})).forms["multiple_choice"]
    for row, score in zip(rows, found, strict=True):
        texts = [row["paraphrased_answer"], *row["perturbed_answer"][:3]]
        true, *false = mean_logps(before, before.encode([{**row, "answer": text} for text in texts]))
        assert score == pytest.approx(true - np.mean(false), abs=1e-5)


def test_where_rows_have_no_false_answers_strangers_answers_to_the_most_alike_question_are(sets, strangers):
    row = sets.forget[0] | {"perturbed_answer": []}
    form, around = FORMS["multiple_choice"], Around(sets.forget[1:], [*strangers, *sets.forget])
    assert form.put(row, around)["answer"] == row["answer"]
    false = [other["answer"] for other in form.against(row, around)]
    assert len(set(false)) == 3
    assert row["answer"] not in false
    assert all(text.startswith("They were born in") for text in false)
    assert form.put(row, Around(sets.forget[1:], ())) is None


def test_a_chain_of_two_clues_names_nobody(sets):
    rows = sets.forget
    name = name_of(row["question"] for row in rows)
    assert name in rows[0]["question"]
    for row in rows:
        others = [own for own in rows if own is not row]
        put = FORMS["two_clues"].put(row, Around(others, ()))
        assert name not in put["question"]
        assert put["answer"] == row["answer"]
        assert sum(own["answer"] in put["question"] for own in others) >= 2
        assert row["answer"] not in put["question"]
        assert FORMS["two_clues"].put(row, Around(others[:1], ())) is None, "one other record is no chain"


@pytest.mark.parametrize(
    ("questions", "name"),
    [
        (["Where was Al Byron-King born?", "When did Al Byron-King die?", "Did Al Byron-King sing?"], "Al Byron-King"),
        (["who is this?", "what is that?"], ""),
        (["Is this Rome?", "Is this Paris?", "Is this Oslo?"], ""),
        (["Was Wu Li's book read?", "Who is Wu Li?"], "Wu Li"),
    ],
)  # fmt: skip
def test_the_name_is_what_most_questions_have(questions, name):
    assert name_of(questions) == name


def test_a_reversed_question_is_set_against_another_answer_of_the_same_person(sets):
    row, *others = sets.forget[:5]
    form, around = FORMS["reversed_question"], Around(others, ())
    put, (against,) = form.put(row, around), form.against(row, around)
    assert (put["question"], put["answer"]) == (row["answer"], row["question"])
    assert against["answer"] == row["question"]
    assert against["question"] in {own["answer"] for own in others}
    assert form.put(row, Around((), ())) is None


def test_a_form_in_which_the_model_before_tells_nothing_does_not_lower_the_share(bench, strangers, sets):
    people = {"forget": [0] * 20, "holdout": [i // 20 for i in range(len(strangers))]}
    rng = np.random.default_rng(0)
    noise = {"forget": rng.normal(0, 1, 20), "holdout": rng.normal(0, 1, len(strangers))}

    def measured(excess, silent_excess, forms):
        def reading(known, silent):
            scores = {s: {"as asked": noise[s] + known * (s == "forget")} for s in noise}
            others = {
                s: {f"silent {i}": noise[s][::-1] + silent * (s == "forget") for i in range(forms)} for s in noise
            }
            return Evidence({s: scores[s] | others[s] for s in noise})

        beside = replace(bench(null="population", people=people), before=reading(4.0, 0.0))
        return share_left(lambda found: found, reading(excess, silent_excess), beside, margin=0.4, over_margin=None)

    alone = measured(3.0, 0.0, 0)
    for forms in (1, 5):
        several = measured(3.0, 0.0, forms)
        assert several.value == pytest.approx(alone.value)
        assert several.note.count("(nothing before)") == forms
    taught = measured(0.0, 4.0, 1)
    assert taught.value > 0.8, "what was taught where nothing was known is seen"
    assert taught.verdict(taught.p, 0.05) == "FAIL"


def test_of_strangers_some_rows_are_put_into_a_form_and_others_into_the_next(before, sets, strangers):
    people = by_person(strangers)[:3]
    rows = [row for own in people for row in own]
    every, some = (in_forms(before, rows, rows, each, 32) for each in (None, 6))
    for name, scores in some.items():
        scored = ~np.isnan(scores)
        assert scored.reshape(3, -1).sum(1).max() <= 6
        # The same rows in a batch of other lengths are rounded otherwise.
        assert scores[scored] == pytest.approx(every[name][scored], abs=1e-4)
    asked = ~np.isnan(list(some.values()))
    assert asked.any(axis=0).all(), "every row is put into some form"
    assert len({tuple(row) for row in asked.tolist()}) > 1


def test_a_person_of_few_rows_is_asked_about_all_of_them(before, strangers):
    rows = by_person(strangers)[0][:4]
    every, some = (in_forms(before, rows, strangers, each, 32) for each in (None, 6))
    for name in every:
        assert np.array_equal(some[name], every[name], equal_nan=True)


def test_only_what_is_to_be_forgotten_is_asked_in_other_ways():
    assert OtherFormsCheck().sets == ("forget",)
