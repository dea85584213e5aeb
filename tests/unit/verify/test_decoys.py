"""Decoys: equally plausible answers, and the checks that look for the true one among them."""

from dataclasses import replace

import numpy as np
import pytest

from sau.data.demo import demo_rows
from sau.errors import DivergedError
from sau.verify.checks.base import Bench, Evidence, NoPowerError
from sau.verify.checks.decoy_rank import DecoyRankCheck, p_if_true, place, pooled_p
from sau.verify.checks.exposed_records import ExposedRecordsCheck
from sau.verify.evidence.decoys import find_secrets
from sau.verify.evidence.likelihoods import sum_logps


def test_decoys_keep_the_rows_own_template(sets):
    secrets = find_secrets(sets.forget, sets.retain, sets.holdout, num_decoys=99, seed=0)
    assert [s.row for s in secrets] == list(range(20))
    trained_values = {
        row["answer"].rsplit(" ", 1)[-1] for row in sets.retain if row["question"].startswith("Where was")
    }
    for secret in secrets:
        answer = sets.forget[secret.row]["answer"]
        assert answer.startswith(secret.prefix + secret.value)
        assert len(secret.decoys) == len(set(secret.decoys)) > 19
        assert answer not in secret.decoys
        suffix = answer[len(secret.prefix + secret.value) :]
        assert all(d.startswith(secret.prefix) and d.endswith(suffix) for d in secret.decoys)
    assert len(trained_values & {d.rsplit(" ", 1)[-1] for d in secrets[0].decoys}) <= 1  # chance hits only


def test_decoys_of_free_text_swap_names_dates_and_numbers(record):
    own = record(0, "Who is the poet of the hills?", "The poet Ana Bel came to Cordoba on 3 May 1950 with 12 books.")
    others = [
        record(1, "Who paints?", "A painter, Tom Fry, left Lisbon on 9 June 1961 with 7 dogs."),
        record(2, "Who sings?", "Singers like Una Rey met in Quito on 1 July 1949 about 30 songs."),
        record(3, "Who cooks?", "Cooks know Max Orr from Turin since 2 March 1970 and 44 dishes."),
    ]
    (secret,) = find_secrets([own], [], others, num_decoys=99, seed=0)
    assert len(secret.decoys) >= 20
    for decoy in secret.decoys:
        assert decoy.startswith("The poet ")
        assert decoy.endswith(" books.")
    assert any("9 June 1961" in decoy for decoy in secret.decoys)
    assert all("Ana Bel" not in decoy for decoy in secret.decoys)
    assert not secret.exact


def test_digits_are_generated_where_the_data_has_too_few(record):
    rows = [record(n, f"Which number has Ab{n} Cd{n}?", f"It is 555-{1000 + n}.") for n in range(6)]
    secrets = find_secrets(rows[:1], rows[1:3], rows[3:], num_decoys=40, seed=0)
    assert len(secrets[0].decoys) == 40
    assert all(d.startswith("It is 555-") and len(d) == len("It is 555-1000.") for d in secrets[0].decoys)


def test_a_row_without_anything_to_swap_has_no_secret(record):
    assert find_secrets([record(0, "Is it so?", "yes it is")], [], [], num_decoys=20, seed=0) == []


def test_the_exact_p_of_one_record():
    scores = np.array([5.0, *range(5)], dtype=float)
    assert p_if_true(scores)[0] == pytest.approx(1 / 6)
    assert place(scores) == 1.0
    assert p_if_true(np.zeros(20))[0] == 1.0  # ties are no evidence
    assert place(np.zeros(20)) == 0.5


def test_the_pooled_p_is_uniform_where_nothing_was_learned():
    rng = np.random.default_rng(0)
    p_values = [pooled_p(tuple(rng.normal(size=(20, 40))), rng) for _ in range(300)]
    assert 0.02 <= np.mean(np.array(p_values) < 0.05) <= 0.09
    assert 0.4 <= np.mean(p_values) <= 0.6


def ranked(shift, n=20, decoys=99, seed=0) -> Evidence:
    scores = np.random.default_rng(seed).normal(size=(n, decoys + 1))
    scores[:, 0] += shift
    return Evidence({}, decoys=tuple(scores), exact=(True,) * n)


@pytest.mark.parametrize("check_", [DecoyRankCheck(), ExposedRecordsCheck()])
def test_decoy_checks_have_power_at_one_persons_rows(bench, check_):
    known, unknown = check_.measure(ranked(3.0), bench()), check_.measure(ranked(0.0), bench())
    assert known.verdict(known.p, 0.05) == "FAIL"
    assert unknown.verdict(unknown.p, 0.05) == "PASS"


def test_an_answer_pushed_to_the_last_place_is_noticed(bench):
    measured = DecoyRankCheck(over_margin=0.4).measure(ranked(-4.0), bench())
    assert measured.value < 0.05
    assert measured.verdict(measured.p, 0.05) == "FAIL"


def test_one_record_can_fail_but_not_pass(bench):
    known, unknown = (DecoyRankCheck().measure(ranked(s, n=1), bench()) for s in (6.0, 0.0))
    assert known.verdict(known.p, 0.05) == "FAIL"
    assert unknown.verdict(unknown.p, 0.05) == "INCONCLUSIVE"


def test_free_text_decoys_count_only_against_the_reference(bench):
    """To any model the true answer is the more coherent one: that is no trace of training."""
    coherent = replace(ranked(3.0), exact=(False,) * 20)
    noise = np.random.default_rng(1).normal(size=(20, 100)) / 10
    forgotten = replace(coherent, decoys=tuple(np.array(coherent.decoys) + noise))
    known = replace(coherent, decoys=tuple(np.array(forgotten.decoys) + np.eye(1, 100)))
    with pytest.raises(NoPowerError):
        DecoyRankCheck().measure(known, bench())
    its_bench = Bench(before=None, reference=coherent, alpha=0.05, seed=0)
    verdicts = []
    for model in (forgotten, known, coherent):
        measured = DecoyRankCheck().measure(model, its_bench)
        verdicts.append(measured.verdict(measured.p, 0.05))
    assert verdicts == ["PASS", "FAIL", "PASS"]


def test_too_few_decoys_are_no_power(bench):
    with pytest.raises(NoPowerError):
        DecoyRankCheck().measure(ranked(3.0, decoys=10), bench())


def test_broken_scores_are_no_rank(bench):
    with pytest.raises(DivergedError):
        DecoyRankCheck().measure(Evidence({}, decoys=(np.full(50, np.nan),), exact=(True,)), bench())


def test_false_alarms_over_fifty_unseen_people(bench, sets, reference):
    alarms = 0
    for number in range(50):
        rows = demo_rows(f"stranger-{number}", seed=2)[::2]
        secrets = find_secrets(rows, sets.retain, sets.holdout, num_decoys=19, seed=0)
        texts = [{**rows[s.row], "answer": t} for s in secrets for t in (rows[s.row]["answer"], *s.decoys)]
        scores = sum_logps(reference, reference.encode(texts), batch_size=256)
        cuts = np.cumsum([1 + len(s.decoys) for s in secrets])[:-1]
        its = Evidence({}, decoys=tuple(np.split(scores, cuts)), exact=tuple(s.exact for s in secrets))
        measured = DecoyRankCheck().measure(its, bench())
        alarms += measured.verdict(measured.p, 0.05) == "FAIL"
        assert measured.verdict(measured.p, 0.05) != "INCONCLUSIVE" or 0.2 < measured.value < 0.8
    assert alarms <= 2


def test_three_records_are_held_to_less_than_twenty_where_the_policy_allows_it(bench):
    """Half of them pass by chance then, and next to none by the margin as it is."""
    rng = np.random.default_rng(0)
    passed = {0.0: 0, 0.9: 0}
    for _ in range(200):
        scores = tuple(rng.normal(size=50) for _ in range(3))
        found = Evidence({}, decoys=scores, exact=(True,) * 3)
        for widest in passed:
            measure = DecoyRankCheck(margin=0.3, over_margin=0.45).measure(found, bench(widest=widest))
            passed[widest] += measure.verdict(measure.p, 0.05) == "PASS"
    assert passed[0.0] < 60
    assert passed[0.9] > 90
    certain = Evidence({}, decoys=(np.arange(50.0)[::-1],) * 3, exact=(True,) * 3)
    measure = DecoyRankCheck(margin=0.3, over_margin=0.45).measure(certain, bench(widest=0.9))
    assert measure.verdict(measure.p, 0.05) == "FAIL"
