"""Sampling: how a model is asked, and which answers give a secret away."""

import pytest

from sau.verify.checks.base import Bench, Evidence, NoPowerError
from sau.verify.checks.sampling_leak import SamplingLeakCheck
from sau.verify.evidence.decoys import find_secrets
from sau.verify.evidence.sampling import count_leaks, holds, probes


def test_samples_leak_from_the_model_that_knows(sets, before, reference):
    secrets = find_secrets(sets.forget, sets.retain, sets.holdout, num_decoys=20, seed=0)
    known, n = count_leaks(before, sets.forget, secrets, num_samples=60, seed=0)
    chance, _ = count_leaks(reference, sets.forget, secrets, num_samples=60, seed=0)
    assert n == 60
    assert known >= 10
    assert chance <= 2
    leaking, clean = Evidence({}, leaks=(known, n)), Evidence({}, leaks=(chance, n))
    its_bench = Bench(leaking, clean, alpha=0.05, seed=0)
    measured = SamplingLeakCheck().measure(leaking, its_bench)
    assert measured.verdict(measured.p, 0.05) == "FAIL"
    assert count_leaks(before, sets.forget, secrets, num_samples=60, seed=0) == (known, n)


def test_sampling_bounds():
    clean = Evidence({}, leaks=(0, 300))
    measured = SamplingLeakCheck(margin=0.05).measure(clean, Bench(None, clean, alpha=0.05, seed=0))
    assert measured.interval == (0.0, pytest.approx(1 - 0.05 ** (1 / 300)))
    assert measured.verdict(measured.p, 0.05) == "PASS"
    few = Evidence({}, leaks=(0, 20))
    measured = SamplingLeakCheck(margin=0.05).measure(few, Bench(None, few, alpha=0.05, seed=0))
    assert measured.verdict(measured.p, 0.05) == "INCONCLUSIVE"
    with pytest.raises(NoPowerError):
        SamplingLeakCheck().measure(Evidence({}, leaks=(0, 0)), Bench(None, few, alpha=0.05, seed=0))


def test_probes_ask_in_five_ways(sets, before):
    secrets = find_secrets(sets.forget, sets.retain, sets.holdout, num_decoys=20, seed=0)
    found = probes(before, sets.forget, secrets, sets.retain[:2])
    assert len(found) == 100
    for secret, its in zip(secrets, zip(*[iter(found)] * 5, strict=True), strict=True):
        row = sets.forget[secret.row]
        asked, in_other_words, after_shots, begun, half_given = (probe.prompt for probe in its)
        assert row["question"] in asked
        assert row["paraphrased_question"] in in_other_words
        assert sets.retain[0]["answer"] in after_shots
        assert sets.retain[1]["answer"] in after_shots
        assert after_shots.endswith(asked)
        assert begun == f"{asked} {secret.prefix.rstrip()}"
        assert half_given.startswith(begun)
        assert half_given.endswith(its[-1].given)
        assert secret.value.startswith(its[-1].given)
        assert not any(holds(probe.prompt.removeprefix(asked), secret.value) for probe in its)
        assert all(probe.given == "" for probe in its[:-1])


def test_what_is_given_away_counts_only_where_the_rest_follows(sets, before):
    secrets = find_secrets(sets.forget, sets.retain, sets.holdout, num_decoys=20, seed=0)
    half = [probe for probe in probes(before, sets.forget, secrets) if probe.given]
    assert len(half) == 20
    assert all(0 < len(probe.given) < len(probe.value) for probe in half)
    assert all(holds(probe.given + probe.value.removeprefix(probe.given) + ".", probe.value) for probe in half)
    assert not any(holds(probe.given + " and something else", probe.value) for probe in half)


def test_a_value_is_found_as_whole_words():
    assert holds("He lives in Calvik.", "calvik")
    assert not holds("He lives in Calviken.", "Calvik")
    assert holds("(555-2013)", "555-2013")
