"""Being more at a loss about somebody than about any stranger is a trace of having been told to be."""

from dataclasses import replace

import numpy as np
import pytest

from sau.verify import load_policy
from sau.verify.checks.base import Evidence, NothingToShowError
from sau.verify.checks.confusion import ConfusionCheck
from sau.verify.evidence.readings import Reading, TokenScores

STRANGERS, ROWS = 24, 10
PEOPLE = {"forget": [0] * ROWS, "holdout": np.repeat(range(STRANGERS), ROWS)}


def reading(entropies):
    answer = tuple(TokenScores(np.array([-1.0]), np.array([True]), np.array([-h]), np.ones(1)) for h in entropies)
    return Reading(answer, np.ones(len(entropies)), "x")


def evidence(excess):
    rng = np.random.default_rng(0)
    return Evidence({"forget": reading(rng.normal(1 + excess, 0.2, ROWS)), "holdout": reading(rng.normal(1, 0.2, 240))})


@pytest.mark.parametrize(("excess", "verdict"), [(-0.8, "PASS"), (0.0, "PASS"), (0.2, "PASS"), (0.8, "FAIL")])
def test_more_entropy_than_about_strangers_fails(bench, excess, verdict):
    found = ConfusionCheck().measure(evidence(excess), bench(null="population", people=PEOPLE))
    assert found.verdict(found.p, 0.05) == verdict
    assert found.value == pytest.approx(excess, abs=0.15)


def test_how_hard_rows_are_for_the_base_model_is_taken_off(bench):
    """Rows about which the base model is as much at a loss are no trace."""
    rng = np.random.default_rng(1)
    hard = rng.uniform(0.5, 2.0, 240)
    rows = {"forget": rng.uniform(1.5, 2.0, ROWS), "holdout": np.repeat(hard[:STRANGERS], ROWS)}
    both = Evidence({name: reading(values) for name, values in rows.items()})
    beside = bench(null="population", people=PEOPLE)
    raw, adjusted = (ConfusionCheck().measure(both, replace(beside, base=base)).value for base in (None, both))
    assert raw > 0.3
    assert adjusted == pytest.approx(0.0, abs=1e-6)


def test_few_rows_are_held_to_a_wider_margin(bench):
    people = PEOPLE | {"forget": [0]}
    one = Evidence({"forget": reading([1.0]), "holdout": reading(np.random.default_rng(0).normal(1, 0.6, 240))})
    assert ConfusionCheck().measure(one, bench(null="population", people=people)).allowed[1] > 0.5


def test_beside_a_retrained_model_it_does_not_apply(bench):
    with pytest.raises(NothingToShowError):
        ConfusionCheck().measure(evidence(0.0), bench(people=PEOPLE))


def test_the_policies_that_decide_what_ships_ask_it():
    for name in ("standard", "strict"):
        assert [check.mandatory for check in load_policy(name).checks if check.name == "confusion"] == [True]
