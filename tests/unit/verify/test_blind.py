"""The blind baseline: what words alone tell apart, without any model."""

import pytest

from sau.verify.checks.base import Bench, Evidence, NoPowerError
from sau.verify.checks.membership import MembershipCheck
from sau.verify.evidence.blind import blind_baseline, word_features


def test_words_alone_do_not_tell_exchangeable_people_apart(sets):
    _, void = blind_baseline(sets.forget, sets.holdout, limit=0.6, seed=0)
    assert not void


def test_words_alone_tell_different_text_apart_and_void_membership(record):
    old = [record(n, f"Who rules {n}?", f"A king of {n % 3} castles and the court") for n in range(30)]
    new = [record(50 + n, f"Who leads {n}?", f"A founder of {n % 3} apps and the team") for n in range(30)]
    auc, void = blind_baseline(old, new, limit=0.6, seed=0)
    assert auc > 0.95
    assert void
    empty = Evidence({})
    check_bench = Bench(empty, empty, alpha=0.05, seed=0, blind_auc=auc, blind_void=True)
    with pytest.raises(NoPowerError, match="void"):
        MembershipCheck().measure(empty, check_bench)


def test_a_name_is_no_feature(sets):
    features = word_features(sets.forget + sets.holdout)
    names = {word for r in sets.forget for word in r["answer"].lower().split()[:2]}
    assert features.shape[1] > 20
    # a word of one person's rows only would be present in all of them and in no other
    forget_only = (features[:20].mean(0) > 0.9) & (features[20:].mean(0) == 0)
    assert names
    assert not forget_only.any()
