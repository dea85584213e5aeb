"""The crash matrix: the forget flow killed at every step, and run again, ends as if it had not been."""

import json
import sys

import pytest
import yaml

pytestmark = pytest.mark.crash
POLICY = {
    "name": "wide",
    "version": 1,
    "min_forget_records": 2,
    "min_holdout_records": 2,
    "metrics": ["probability"],
    "checks": [{"name": "residual_knowledge", "margin": 0.95, "over_margin": 10.0}],
}
SMALL = {
    "model": {"tiny": {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_layers": 1, "num_heads": 2,
                       "pretrain_people": 10}},
    "train": {"epochs": 6, "lr": 0.01},
    "recover": {"epochs": 1},
    "unlearn": {"objective": {"name": "npo"}, "redistribution": {"name": "none"}, "lr": 0.01, "max_steps": 16,
                "alpha": 0.0, "adapt": {"epochs": 1}, "stop": {"utility_floor": 0.1}},
}  # fmt: skip


def test_a_flow_killed_at_any_step_ends_as_the_uninterrupted_one(copy_checkout, tmp_path):
    checkout, policy, profile = copy_checkout(tmp_path / "checkout"), tmp_path / "wide.yaml", tmp_path / "small.yaml"
    policy.write_text(yaml.safe_dump(POLICY))
    profile.write_text(yaml.safe_dump(SMALL))
    checkout.sau("bootstrap", "--profile", str(profile), "--set", f"verify.policy={policy}")
    checkout.sau("request", "submit", "--subject", "demo-0002")
    (tmp_path / "kept").mkdir()
    done = checkout.run(sys.executable, "tests/e2e/killed_flows.py", str(tmp_path / "kept"))
    found = json.loads(done.stdout)
    right = found.pop("uninterrupted")
    assert right["leader"][:2] == ["tiny@v2", "PASS"]
    assert right["request"] == ["forgotten", 2, "PASS"]
    assert (right["versions"], right["models"], right["worktrees"]) == ([2, 1], 3, 0)
    assert [right["running"], right["running_flows"], right["work"]] == [[], [], []]
    assert len(found) > 12
    assert {name: after for name, after in found.items() if after != right} == {}
