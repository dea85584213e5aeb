"""Those who stay: utility on people whom unlearning was not shown, and membership that is no plainer than before."""

from dataclasses import replace

import numpy as np
import pytest

from sau.errors import ConfigError
from sau.registry import build
from sau.verify import load_policy
from sau.verify.checks.base import PACKAGE, Check, Evidence, NoPowerError
from sau.verify.checks.kept_membership import KeptMembershipCheck
from sau.verify.checks.retain_utility import RetainUtilityCheck
from sau.verify.evidence.readings import Reading, TokenScores

STAY, STRANGERS, ROWS = 6, 12, 4
PEOPLE = {"retain": np.repeat(range(STAY), ROWS), "holdout": np.repeat(range(STRANGERS), ROWS)}


def reading(scores):
    answer = tuple(TokenScores(np.array([s]), np.array([True]), np.zeros(1), np.ones(1)) for s in scores)
    return Reading(answer, np.ones(len(scores)), "x")


def evidence(stands_out):
    """People who stay are `stands_out` nats likelier than strangers, who spread by half a nat."""
    rng = np.random.default_rng(0)
    stay, strangers = (np.repeat(rng.normal(0, 0.5, n), ROWS) for n in (STAY, STRANGERS))
    return Evidence({"retain": reading(stay - 3.0 + stands_out), "holdout": reading(strangers - 3.0)})


@pytest.fixture(scope="module")
def beside(bench):
    return replace(bench(people=PEOPLE), before=evidence(2.0))


@pytest.mark.parametrize(("stands_out", "verdict"), [(1.0, "PASS"), (2.0, "PASS"), (2.2, "PASS"), (5.0, "FAIL")])
def test_people_who_stay_may_not_become_plainer_members(beside, stands_out, verdict):
    found = KeptMembershipCheck().measure(evidence(stands_out), beside)
    assert found.verdict(found.p, 0.05) == verdict
    if stands_out == 2.0:
        assert found.value == pytest.approx(1.0)


def test_a_difference_that_nobody_can_read_may_grow(bench):
    beside = replace(bench(people=PEOPLE), before=evidence(0.0))
    found = KeptMembershipCheck().measure(evidence(0.1), beside)
    assert found.verdict(found.p, 0.05) != "FAIL"


def test_two_people_are_too_few(bench):
    few = {name: np.minimum(numbers, 1) for name, numbers in PEOPLE.items()}
    with pytest.raises(NoPowerError):
        KeptMembershipCheck().measure(evidence(2.0), replace(bench(people=few), before=evidence(2.0)))


def test_it_takes_attacks_that_need_no_other_model():
    with pytest.raises(ConfigError, match="of the answers alone"):
        build(Check, PACKAGE, {"name": "kept_membership", "metric": "mia_reference"})


def test_the_policies_that_decide_what_ships_ask_it():
    for name in ("standard", "strict"):
        assert [check.mandatory for check in load_policy(name).checks if check.name == "kept_membership"] == [True]


def test_utility_is_that_of_people_whom_unlearning_was_not_shown(beside):
    """Those it trained on are better than before, the others pay: the mean of both would pass."""
    spared = range(ROWS)
    kept = beside.before.readings["retain"]
    changed = [tokens.logp_T[0] + (-1.0 if i in spared else 0.5) for i, tokens in enumerate(kept.answer)]
    after = Evidence({"retain": reading(changed)})
    everybody = RetainUtilityCheck().measure(after, beside)
    assert everybody.value > 1
    found = RetainUtilityCheck().measure(after, replace(beside, spared=spared))
    assert found.n == ROWS
    assert found.value == pytest.approx(np.exp(-1.0))
    assert found.verdict(found.p, 0.05) == "FAIL"
    assert "not shown, 1.65 on the others" in found.note
