"""Who is tried again after a version did not pass, and with what."""

import pytest

from sau.params import load_params
from sau.verify import Verification
from sau.verify.record import Finding, PersonVerdict
from tasks.retry import Try, advised, tries
from tests.conftest import ROOT

UNLEARN = load_params(ROOT / "params.yaml").unlearn
PARAMS = UNLEARN.model_copy(update={"stop": UNLEARN.stop.model_copy(update={"margin_nats": 0.0})})
FURTHER = {"unlearn": {"stop": {"margin_nats": -0.3}}}


def finding(name="residual_knowledge", value=0.1, verdict="PASS", **changes):
    about = name not in ("retain_utility", "kept_membership", "few_directions", "confusion")
    base = {
        "id": name, "title": name, "question": "", "mandatory": True, "n": 20, "value": value,
        "interval": (value - 0.1, value + 0.1), "before": 1.0, "reference": None, "margin": (-1.0, 0.4), "p": 0.0,
        "power": 0.9, "verdict": verdict, "reason": "", "about_forgetting": about,
    }  # fmt: skip
    return Finding(**base | changes)


def verification(checks, people=None):
    return Verification(
        verdict="FAIL", reasons=[], policy="p", policy_version=1, policy_digest="", confidence=0.95, weights_digest="",
        seed=0, null="population", num_records={}, num_people={}, checks=checks, table={}, scores={}, limits=[],
        people=[
            PersonVerdict(label=label, num_records=20, verdict=verdict, reasons=[], checks=own)
            for label, (verdict, own) in (people or {}).items()
        ],
    )  # fmt: skip


KNOWN, FINE = finding(value=0.6, verdict="FAIL"), finding()


@pytest.mark.parametrize(
    ("checks", "changes"),
    [
        ([KNOWN], FURTHER),
        ([finding("residual_knowledge/int4", 0.6, "FAIL"), FINE], FURTHER),
        ([finding(value=0.35, verdict="INCONCLUSIVE")], FURTHER),
        ([finding(value=0.35, verdict="INCONCLUSIVE", power=0.5)], {}),
        ([finding(value=0.6, verdict="FAIL", mandatory=False), FINE], {}),
        ([finding(value=-1.4, verdict="FAIL")], {"unlearn": {"stop": {"margin_nats": 0.3}}}),
        ([finding(value=-1.4, verdict="FAIL"), finding("membership/mia_min_k", 0.6, "FAIL")], {}),
        ([finding("few_directions", 0.9, "FAIL", margin=(None, 0.85))], {}),
        ([finding(verdict="INCONCLUSIVE").model_copy(update={"value": None, "interval": None, "margin": None})], {}),
    ],
)  # fmt: skip
def test_how_hard_to_push_follows_from_the_checks(checks, changes):
    assert advised(checks, PARAMS) == changes


def test_who_stays_and_was_harmed_is_spared():
    changes = advised([finding("retain_utility", 0.6, "FAIL", margin=(0.8, None)), KNOWN], PARAMS)["unlearn"]
    assert changes.pop("stop") == {"margin_nats": -0.3, "utility_floor": pytest.approx(0.975)}
    assert changes == {"lr": PARAMS.lr / 2, "alpha": PARAMS.alpha * 2, "max_steps": PARAMS.max_steps * 2}


def test_without_a_goal_nothing_is_advised():
    assert advised([KNOWN], PARAMS.model_copy(update={"stop": None})) == {}


def test_who_passes_alone_is_carried_out_without_the_others():
    people = {"r-1": ("PASS", [FINE]), "r-2": ("FAIL", [KNOWN]), "r-3": ("INCONCLUSIVE", [finding(power=0.1)])}
    first, second = tries(["r-1", "r-2", "r-3"], verification([KNOWN], people), PARAMS)
    assert first == Try(request_ids=("r-1",))
    assert second == Try(request_ids=("r-2", "r-3"), changes=FURTHER)
    nothing_to_do = {"r-1": ("PASS", [FINE]), "r-2": ("INCONCLUSIVE", [finding(power=0.1)])}
    assert tries(["r-1", "r-2"], verification([KNOWN], nothing_to_do), PARAMS) == [Try(request_ids=("r-1",))]


def test_where_all_pass_alone_and_together_they_do_not_the_whole_decides():
    people = {"r-1": ("PASS", [FINE]), "r-2": ("PASS", [FINE])}
    assert tries(["r-1", "r-2"], verification([FINE], people), PARAMS) == []
    assert tries(["r-1", "r-2"], verification([KNOWN], people), PARAMS) == [
        Try(request_ids=("r-1", "r-2"), changes=FURTHER)
    ]
