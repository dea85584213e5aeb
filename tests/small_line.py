"""A line so small that its whole flows take seconds, judged beside a retrained model by a policy that lets it pass."""

from pathlib import Path

import yaml

PERSON = "demo-0002"
POLICY = {
    "name": "wide",
    "version": 1,
    "against": "retrained",
    "min_forget_records": 2,
    "min_holdout_records": 2,
    "metrics": ["probability"],
    "checks": [{"name": "residual_knowledge", "margin": 0.95, "over_margin": 1000.0}],
}
SMALL = {
    "model": {"tiny": {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_layers": 1, "num_heads": 2,
                       "pretrain_people": 10}},
    "train": {"epochs": 6, "lr": 0.01},
    "recover": {"epochs": 1},
    "unlearn": {"objective": {"name": "npo"}, "redistribution": {"name": "none"}, "lr": 0.01, "max_steps": 16,
                "alpha": 0.0, "adapt": {"epochs": 1}, "stop": None},
}  # fmt: skip


def options(folder: Path) -> tuple[str, ...]:
    """What `sau bootstrap` is told to make such a line; its files are written into the folder."""
    policy, profile = folder / "wide.yaml", folder / "small.yaml"
    policy.write_text(yaml.safe_dump(POLICY))
    profile.write_text(yaml.safe_dump(SMALL))
    return ("--profile", str(profile), "--set", f"verify.policy={policy}")
