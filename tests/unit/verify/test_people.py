"""The population null: what a model makes of people it never saw is what forgetting has to come to."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from sau.errors import DivergedError
from sau.verify import load_policy
from sau.verify.checks.base import Bench, Evidence, NoPowerError, NothingToShowError
from sau.verify.checks.people import share_left
from sau.verify.evidence.beside import beside
from sau.verify.foresight import foresee
from sau.verify.policy import Policy

NUM_STRANGERS, NUM_ROWS = 24, 20
PEOPLE = {
    "forget": [0] * NUM_ROWS,
    "retain": [p for p in range(10) for _ in range(NUM_ROWS)],
    "holdout": [p for p in range(NUM_STRANGERS) for _ in range(NUM_ROWS)],
}


def rng_of(seed):
    return np.random.default_rng(seed)


def model(asked, stays=-0.1, spread=0.3, seed=0, **forms):
    """Evidence of a model that answers those who asked with mean log p `asked`, and strangers with -2.

    Args:
        forms: of the asked rows in other forms; strangers stay at -2.
    """
    rng = rng_of(seed)
    means = {"forget": asked, "retain": stays, "holdout": -2.0}
    person = {"forget": rng.normal(0, spread / 4, 1), "retain": rng.normal(0, 0.01, 10)}
    person["holdout"] = rng.normal(0, spread / 4, NUM_STRANGERS)
    readings = {}
    for name, people in PEOPLE.items():
        noise = rng.normal(0, spread, len(people)) + person[name][people]
        scores = {"as asked": means[name] + noise}
        scores |= {form: (value if name == "forget" else -2.0) + noise for form, value in forms.items()}
        readings[name] = SimpleNamespace(scores=scores)
    return Evidence(readings)


def bench(before, **changes):
    return Bench(before=before, reference=None, alpha=0.05, seed=0, null="population", people=PEOPLE, **changes)


def left(evidence, before, margin=0.4, **changes):
    return share_left(lambda r: r.scores, evidence, bench(before, **changes), margin=margin, over_margin=1.0)


BEFORE = model(-0.1)


# -- the statistics ---------------------------------------------------------------------------------


def test_the_interval_is_the_prediction_interval_for_one_more_stranger():
    scores = rng_of(1).normal(-2, 1, NUM_STRANGERS * NUM_ROWS)
    found = beside(np.full(NUM_ROWS, -1.5), scores, (PEOPLE["forget"], PEOPLE["holdout"]), rng_of(0))
    means = scores.reshape(NUM_STRANGERS, NUM_ROWS).mean(1)
    assert found.excess == pytest.approx(-1.5 - means.mean())
    assert found.error == pytest.approx(means.std(ddof=1) * np.sqrt(1 + 1 / NUM_STRANGERS))
    assert found.p == pytest.approx(2 * stats.t.sf(found.excess / found.error, NUM_STRANGERS - 1))
    assert found.rank == 1 + (means >= -1.5).sum()


@pytest.mark.parametrize("rows", [1, 3, 20])
def test_a_stranger_is_taken_for_known_as_often_as_alpha_says(rows):
    rng, wrong = rng_of(2), []
    for _ in range(400):
        hard = rng.normal(0, 0.3, NUM_STRANGERS + 1)
        scores = rng.normal(np.repeat(hard, NUM_ROWS), 1.0)
        asked, strangers = scores[:rows], scores[NUM_ROWS:]
        wrong.append(beside(asked, strangers, ([0] * rows, PEOPLE["holdout"]), rng).p < 0.1)
    assert np.mean(wrong) == pytest.approx(0.1, abs=0.05)


def test_fewer_rows_spread_wider():
    scores = rng_of(3).normal(-2, 1, NUM_STRANGERS * NUM_ROWS)
    spreads = [
        beside(np.full(n, -2.0), scores, ([0] * n, PEOPLE["holdout"]), rng_of(0)).spread for n in (NUM_ROWS, 5, 1)
    ]
    assert spreads == sorted(spreads)
    assert spreads[2] / spreads[0] == pytest.approx(NUM_ROWS**0.5, rel=0.35)


def test_how_hard_rows_are_is_taken_off():
    """Rows that any model finds easy are no trace, and strangers spread less where their hardness is known."""
    rng = rng_of(4)
    hard = rng.normal(-3, 1, NUM_STRANGERS)
    strangers = np.repeat(hard + rng.normal(0, 0.1, NUM_STRANGERS), NUM_ROWS)
    easy = np.full(NUM_ROWS, -1.0)
    people = (PEOPLE["forget"], PEOPLE["holdout"])
    raw = beside(easy, strangers, people, rng_of(0))
    adjusted = beside(easy, strangers, people, rng_of(0), (easy, np.repeat(hard, NUM_ROWS)))
    assert raw.p < 0.1
    assert adjusted.p > 0.2
    assert adjusted.spread < raw.spread / 3
    assert (adjusted.df, raw.df) == (NUM_STRANGERS - 2, NUM_STRANGERS - 1)
    known = beside(easy + 2, strangers, people, rng_of(0), (easy, np.repeat(hard, NUM_ROWS)))
    assert known.p < 1e-6


def test_several_who_asked_are_judged_by_their_mean():
    scores = rng_of(5).normal(-2, 1, NUM_STRANGERS * NUM_ROWS)
    one, four = (
        beside(np.full(n * 5, -1.5), scores, (np.repeat(range(n), 5), PEOPLE["holdout"]), rng_of(0)) for n in (1, 4)
    )
    assert four.excess == pytest.approx(one.excess)
    assert four.error < 0.6 * one.error


# -- the share that is left -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "share", "verdict"),
    [
        (-0.1, 1.0, "FAIL"),
        (-1.0, 0.53, "FAIL"),
        (-1.4, 0.32, "INCONCLUSIVE"),
        (-2.0, 0.0, "PASS"),
        (-5.0, -1.6, "FAIL"),
    ],
)
def test_the_share_says_how_much_is_left(asked, share, verdict):
    found = left(model(asked, seed=7), BEFORE)
    assert found.value == pytest.approx(share, abs=0.1 + 0.1 * abs(share))
    assert found.verdict(found.p, 0.05) == verdict


def test_people_who_stay_are_found_and_strangers_are_not():
    found = left(model(-2.0), BEFORE)
    assert found.seen == 1.0
    assert found.alarms <= 0.05
    assert left(model(-2.0, stays=-2.0), BEFORE).seen < 0.1, "a model that lost everybody finds nobody"


def test_where_the_model_before_knows_nothing_there_is_nothing_to_show():
    with pytest.raises(NothingToShowError, match="24 people it never saw"):
        left(model(-2.0), model(-2.05))


def test_a_model_that_knows_more_than_the_one_before_is_no_case_of_nothing_to_show():
    with pytest.raises(NoPowerError, match="and this one does"):
        left(model(-0.1), model(-2.05))


def test_one_form_that_tells_everything_is_a_trace_whatever_the_others_say():
    quiet = {f"form {n}": -2.0 for n in range(6)}
    before = model(-0.1, **dict.fromkeys(quiet, -0.1))
    honest = left(model(-2.0, **quiet), before)
    assert honest.verdict(honest.p, 0.05) == "PASS"
    leaky = left(model(-2.0, **(quiet | {"form 3": -0.1})), before)
    assert leaky.value == pytest.approx(1.0, abs=0.15)
    assert leaky.verdict(leaky.p, 0.05) == "FAIL"
    assert "form 3 " in leaky.note


def test_a_form_that_was_never_asked_counts_by_what_was_known_as_asked():
    before = model(-0.1, hidden=-2.0)
    found = left(model(-2.0, hidden=-0.1), before)
    assert found.value == pytest.approx(1.0, abs=0.15)
    assert found.verdict(found.p, 0.05) == "FAIL"


def test_a_form_that_some_strangers_cannot_be_asked_in_counts_alone():
    def lacking(evidence, num_lacking):
        values = evidence.readings["holdout"].scores["other"]
        values[np.array(PEOPLE["holdout"]) < num_lacking] = np.nan
        return evidence

    before = lacking(model(-0.1, other=-0.1), 10)
    fine = left(lacking(model(-2.0, other=-2.0), 10), before)
    assert fine.verdict(fine.p, 0.05) == "PASS"
    telling = left(lacking(model(-2.0, other=-0.1), 10), before)
    assert telling.verdict(telling.p, 0.05) == "FAIL"
    assert telling.value > 0.8


def test_few_rows_are_held_to_a_wider_margin_where_the_policy_allows_it(monkeypatch):
    monkeypatch.setitem(PEOPLE, "forget", [0] * 2)
    before, after = model(-0.1, spread=0.6), model(-2.0, spread=0.6)
    narrow, wide, capped = (left(after, before, margin=0.2, widest=w) for w in (0.0, 0.9, 0.3))
    assert narrow.allowed[1] == 0.2
    assert narrow.power < 0.8
    assert 0.3 < wide.allowed[1] < 0.9
    assert wide.power == pytest.approx(0.8, abs=0.02)
    assert capped.allowed[1] == 0.3


def test_a_score_that_is_not_finite_is_an_error():
    broken = model(-2.0)
    broken.readings["forget"].scores["as asked"][3] = np.nan
    with pytest.raises(DivergedError):
        left(broken, BEFORE)


# -- on models --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policy():
    """The quick policy with every check, forms and one stressor that teaches."""
    quick = load_policy("quick").model_dump(mode="json")
    checks = [*quick["checks"], {"name": "other_forms"}, {"name": "sampling_leak", "margin": 0.1}]
    relearn = {"name": "relearn", "rows": 5}
    return Policy.model_validate(
        quick | {"checks": checks, "stressors": [relearn], "num_stressors": None, "num_samples": 100}
    )


def test_without_any_reference_the_retrained_model_passes_and_the_model_before_fails(
    verified, by_id, policy, strangers, retrained, before
):
    good, bad = (verified(lm, before, None, policy, holdout=strangers) for lm in (retrained, before))
    assert good.null == "population"
    assert good.judged_against == "12 people the model never saw"
    assert bad.verdict == "FAIL"
    for name in ("residual_knowledge", "membership/mia_min_k", "extraction", "other_forms"):
        finding = by_id(bad)[name]
        assert finding.verdict == "FAIL", name
        assert finding.value == finding.before == 1.0 or name == "other_forms"
        assert by_id(good)[name].verdict != "FAIL", name
        assert by_id(good)[name].alarms <= 0.1
    assert by_id(good)["residual_knowledge"].verdict == "PASS"
    assert by_id(good)["residual_knowledge"].seen == 1.0
    assert by_id(good)["residual_knowledge"].reference is None


def test_after_relearning_strangers_have_been_taught_alike(verified, by_id, policy, strangers, retrained, before):
    good, bad = (by_id(verified(lm, before, None, policy, holdout=strangers)) for lm in (retrained, before))
    assert good["residual_knowledge/relearn5"].verdict == "PASS"
    assert bad["residual_knowledge/relearn5"].verdict == "FAIL"


def test_what_a_verdict_could_say_is_known_before_anything_is_trained(policy, sets, strangers, before, reference):
    many, few = (foresee(before, sets.forget[:n], strangers, policy) for n in (20, 2))
    assert many.known
    assert few.known
    assert (many.num_records, few.num_records, many.num_people) == (20, 2, 12)
    assert many.margin <= few.margin
    assert many.power >= few.power > 0
    assert "20 records, which the model knows" in many.words
    assert few.margin > 0.5, "two rows are held to less"
    nothing = foresee(reference, sets.forget, strangers, policy)
    assert not nothing.known
    assert "nothing to erase" in nothing.words
    lacking = foresee(before, sets.forget, sets.holdout, policy)
    assert lacking.words == "20 records; no verdict: 6 people the model never saw are missing"


def test_too_few_people_are_counted(verified, by_id, policy, sets, retrained, before):
    result = verified(retrained, before, None, policy, holdout=sets.holdout)
    assert result.verdict == "INCONCLUSIVE"
    reason = by_id(result)["residual_knowledge"].reason
    assert "4 people the model never saw, 6 are missing: the policy asks for 10" in reason


def test_a_reference_is_one_control_more(verified, by_id, policy, strangers, retrained, before, reference):
    beside_it = by_id(verified(retrained, before, reference, policy, holdout=strangers))["residual_knowledge"]
    assert beside_it.reference == pytest.approx(0.0, abs=0.3)
    spoiled = by_id(verified(retrained, before, before, policy, holdout=strangers))["residual_knowledge"]
    assert spoiled.verdict == "INCONCLUSIVE"
    assert "fails this check as well" in spoiled.reason


def test_each_of_several_people_has_a_verdict(verified, by_id, policy, sets, strangers, retrained, before):
    """The retrained model never saw the first; it knows the second as well as ever."""
    both, stays = sets.forget + sets.retain[:20], sets.retain[20:]
    result = verified(retrained, before, None, policy, forget=both, retain=stays, holdout=strangers)
    first, second = result.people
    assert (first.label, first.num_records, second.label) == ("person 1", 20, "person 2")
    alone = by_id(verified(retrained, before, None, policy, retain=stays, holdout=strangers))["residual_knowledge"]
    found = {f.id: f for f in first.checks}["residual_knowledge"]
    assert (found.value, found.verdict) == (alone.value, "PASS")
    assert second.verdict == "FAIL"
    assert result.verdict == "FAIL"


def test_a_base_model_that_cannot_be_read_is_no_pass(verified, sets, policy, strangers, retrained, before):
    from dataclasses import replace

    from sau.verify import Controls, verify

    def gone():
        raise OSError

    result = verify(
        model=retrained,
        sets=replace(sets, holdout=strangers),
        controls=Controls(before=before, base=gone),
        policy=policy,
        weights_digest="d" * 64,
    )
    assert result.verdict == "INCONCLUSIVE"
    assert "the base model could not be measured (OSError)" in result.reasons[0]
