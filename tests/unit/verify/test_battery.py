"""The battery on small models: what passes, what fails, and what a verification holds."""

import json

import pytest

from sau.registry import discover
from sau.verify import Controls, load_policy, verify_each
from sau.verify.checks import base as check
from sau.verify.checks.base import Check
from sau.verify.evidence.decoys import find_secrets

QUICK = load_policy("quick", null="retrained")


def test_the_retrained_model_passes(verified, retrained, before, reference):
    result = verified(retrained, before, reference)
    assert result.verdict == "PASS", result.reasons
    for finding in result.checks:
        assert finding.verdict == "PASS"
        if finding.id != "retain_utility":
            assert finding.margin[1] < finding.before  # the positive control lies beyond the margin


def test_several_candidates_have_the_verdicts_they_have_alone(
    verified, timeless, all_mandatory, sets, retrained, before, reference
):
    read = []

    def opened_once(name, lm):
        return lambda: read.append(name) or lm

    together = verify_each(
        candidates=[(retrained, "a" * 64), (before, "b" * 64)],
        sets=sets,
        controls=Controls(opened_once("before", before), opened_once("reference", reference)),
        policy=all_mandatory,
    )
    alone = (
        verified(retrained, before, reference).model_copy(update={"weights_digest": "a" * 64}),
        verified(before, before, reference).model_copy(update={"weights_digest": "b" * 64}),
    )
    assert [timeless(v) for v in together] == [timeless(v) for v in alone]
    assert read == ["before", "reference"]


def test_the_untouched_model_fails_every_check_of_forgetting(verified, by_id, before, reference):
    result = verified(before, before, reference)
    assert result.verdict == "FAIL"
    verdicts = {i: f.verdict for i, f in by_id(result).items()}
    assert verdicts.pop("retain_utility") == "PASS"
    assert set(verdicts.values()) == {"FAIL"}


def test_a_destroyed_model_fails_on_utility(verified, by_id, small, before, reference):
    result = verified(small(), before, reference)
    assert result.verdict == "FAIL"
    assert by_id(result)["retain_utility"].verdict == "FAIL"


def test_without_a_reference_nothing_passes(verified, by_id, retrained, before):
    result = verified(retrained, before, None)
    assert result.verdict == "INCONCLUSIVE"
    assert "not given" in by_id(result)["membership/mia_min_k"].reason
    assert by_id(result)["decoy_rank"].verdict == "INCONCLUSIVE"


def test_without_the_model_before_nothing_passes(verified, retrained, reference):
    assert verified(retrained, None, reference).verdict == "INCONCLUSIVE"


def test_a_leak_is_seen_without_a_reference(verified, by_id, before):
    result = verified(before, before, None)
    assert result.verdict == "FAIL"
    assert by_id(result)["decoy_rank"].verdict == "FAIL"


def test_models_may_be_given_as_functions_and_are_opened_once(verified, timeless, retrained, before, reference):
    opened = []

    def opener(name, lm):
        return lambda: opened.append(name) or lm

    result = verified(opener("u", retrained), opener("b", before), opener("r", reference))
    assert opened == ["b", "r", "u"]
    assert timeless(result) == timeless(verified(retrained, before, reference))


def test_the_record_holds_numbers_and_no_text(verified, sets, retrained, before, reference):
    record = json.dumps(verified(retrained, before, reference).to_json(), allow_nan=False)
    secrets = find_secrets(sets.forget, sets.retain, sets.holdout, num_decoys=20, seed=0)
    for row in sets.forget:
        assert row["answer"] not in record
        assert row["question"] not in record
        assert row["record_id"] not in record
    for secret in secrets:
        assert secret.value.isdigit() or secret.value not in record  # a year may be in a score's decimals
        assert secret.value not in repr(secret)


def test_the_table_has_every_model_set_and_metric(verified, retrained, before, reference):
    table = verified(retrained, before, reference).table
    assert set(table) == {"before", "reference", "unlearned"}
    assert table["before"]["forget"]["probability"] > 0.8 > 0.2 > table["unlearned"]["forget"]["probability"]
    assert table["before"]["membership"]["mia_loss"] > 0.95
    assert table["unlearned"]["model"]["retain_utility"] == pytest.approx(1, abs=0.2)


def test_a_policy_that_counts_nothing_but_utility_passes_nothing(verified, before, reference):
    """None that is read can be such a policy."""
    checks = tuple(c.model_copy(update={"mandatory": c.name == "retain_utility"}) for c in QUICK.checks)
    result = verified(before, before, reference, QUICK.model_copy(update={"checks": checks}))
    assert result.verdict == "INCONCLUSIVE"


def test_every_check_says_what_it_looks_at():
    for found in discover(Check, check.PACKAGE).values():
        assert found.title
        assert found.question
        assert found.sets or found.extra
