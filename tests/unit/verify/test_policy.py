"""Policies: strictly parsed, versioned, digested."""

import pytest
import yaml

from sau.errors import ConfigError
from sau.verify import load_policy
from sau.verify.checks.decoy_rank import PERMUTATIONS
from sau.verify.policy import SHIPPED
from sau.verify.stats import NUM_BOOTSTRAP

MINIMAL = {
    "name": "mine",
    "version": 1,
    "metrics": ["probability"],
    "checks": [{"name": "retain_utility"}, {"name": "membership", "metric": "mia_loss"}],
}


def written(tmp_path, **changes):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **changes}))
    return path


@pytest.mark.parametrize("name", ["quick", "standard", "strict"])
def test_shipped_policies_load(name):
    policy = load_policy(name)
    assert policy.name == name
    assert any(check.about_forgetting and check.mandatory for check in policy.checks)
    assert any(check.name == "retain_utility" and check.mandatory for check in policy.checks)


def test_stricter_policies_are_stricter():
    policies = [load_policy(name) for name in ("quick", "standard", "strict")]
    for kind in ("retain_utility", "residual_knowledge", "membership", "extraction", "decoy_rank"):
        margins = [next(c.margin for c in p.checks if c.name == kind) for p in policies]
        assert margins == sorted(margins, reverse=True)
    assert [len(p.stressors_run) for p in policies] == [0, 5, 8]


def test_the_strict_policy_has_every_stressor_of_the_catalogue():
    stressors = {stressor.id: stressor for stressor in load_policy("strict").stressors}
    assert set(stressors) == {"int8", "int4", "prune10", "prune20", "densify", "relearn1", "relearn5", "relearn20"}
    assert {stressors[i].group for i in ("int8", "int4")} == {32}


def test_the_budget_takes_the_first_stressors_and_is_part_of_the_digest():
    own, smaller, all_ = (load_policy("standard", num_stressors=n) for n in (None, 2, 99))
    assert [s.id for s in own.stressors_run] == ["int8", "int4", "prune10", "densify", "relearn5"]
    assert [s.id for s in smaller.stressors_run] == ["int8", "int4"]
    assert [s.id for s in smaller.stressors_left_out][:2] == ["prune10", "densify"]
    assert all_.stressors_left_out == ()
    assert len({p.digest for p in (own, smaller, all_)}) == 3
    assert load_policy("standard", num_stressors=5).digest == own.digest
    with pytest.raises(ConfigError, match="num_stressors"):
        load_policy("standard", num_stressors=-1)


@pytest.mark.parametrize("name", ["quick", "standard", "strict"])
def test_no_shipped_policy_leaves_a_mandatory_stressor_out(name):
    assert not [s.id for s in load_policy(name).stressors_left_out if s.mandatory]


@pytest.mark.parametrize("name", ["quick", "standard", "strict"])
def test_every_policy_can_fail_a_model(name):
    """The smallest p-values there are, Holm-adjusted over all checks, have to stay below alpha."""
    policy = load_policy(name)
    num_checks = len(policy.checks) + len(policy.stressors_run) * len(policy.stressed_checks)
    smallest = max(2 / (NUM_BOOTSTRAP + 1), 2 / (PERMUTATIONS + 1))
    assert num_checks * smallest < 1 - policy.confidence


def test_every_shipped_file_is_named_after_its_policy():
    assert {path.stem for path in SHIPPED.glob("*.yaml")} == {"quick", "standard", "strict"}


def test_the_digest_is_of_the_content_not_of_the_file(tmp_path):
    path = written(tmp_path)
    digest = load_policy(path).digest
    path.write_text("# a comment\n" + path.read_text())
    assert load_policy(path).digest == digest
    assert load_policy(written(tmp_path, confidence=0.95)).digest == digest  # a default, spelled out
    assert load_policy(written(tmp_path, confidence=0.9)).digest != digest
    assert len(digest) == 64


def test_a_changed_margin_changes_the_digest(tmp_path):
    changed = [{"name": "retain_utility", "margin": 0.16}, MINIMAL["checks"][1]]
    assert load_policy(written(tmp_path)).digest != load_policy(written(tmp_path, checks=changed)).digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"surprise": 1}, "surprise"),
        ({"version": 0}, "version"),
        ({"confidence": 1.0}, "confidence"),
        ({"checks": []}, "mandatory"),
        ({"checks": [{"name": "retain_utility", "mandatory": False}]}, "mandatory"),
        ({"checks": ["retain_utility"]}, "at least one check of forgetting has to be mandatory"),
        ({"checks": ["retain_utility", {"name": "extraction", "mandatory": False}]}, "check of forgetting"),
        ({"checks": [{"name": "retain_utilty"}]}, "did you mean 'retain_utility'"),
        ({"checks": [{"name": "retain_utility", "margin": 2}]}, "margin"),
        ({"checks": [{"name": "retain_utility", "typo": 2}]}, "typo"),
        ({"checks": ["extraction", "extraction"]}, "twice: extraction"),
        ({"checks": [{"name": "membership", "metric": "probability"}]}, "membership metric"),
        ({"checks": [{"name": "membership", "metric": "nope"}]}, "unknown metric"),
        ({"checks": [7]}, "a name or a mapping"),
        ({"checks": "extraction"}, "checks"),
        ({"metrics": ["nope"]}, "unknown metric"),
        ({"stressors": ["relearn"]}, "need each other"),
        ({"stressors": ["relearn"], "stressed_checks": ["extraction"]}, "extraction"),
        ({"stressors": ["relearn", "relearn"], "stressed_checks": ["retain_utility"]}, "twice: relearn5"),
        ({"num_decoys": 5}, "num_decoys"),
    ],
)
def test_refusals_name_the_key(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_policy(written(tmp_path, **changes))


def test_an_unknown_policy_lists_the_known():
    with pytest.raises(ConfigError, match="quick, standard, strict"):
        load_policy("relaxed")
    with pytest.raises(ConfigError, match="quick, standard, strict"):
        load_policy("../policies/quick")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.yaml"):
        load_policy(tmp_path / "gone.yaml")


def test_anchors_are_refused(tmp_path):
    path = tmp_path / "bomb.yaml"
    path.write_text("name: &a bomb\nversion: *a\n")
    with pytest.raises(ConfigError, match="anchors"):
        load_policy(path)
