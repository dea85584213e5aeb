"""A grid small enough for a test, and the models that its cells share."""

from pathlib import Path

import pytest

from sau.benchmark import Spec, prepare
from sau.config import merge, read_yaml


@pytest.fixture(scope="session")
def defaults():
    """The shipped parameters."""
    return read_yaml(Path(__file__).resolve().parents[3] / "params.yaml")


@pytest.fixture(scope="session")
def spec(defaults):
    """A size that takes seconds."""
    params = {
        "num_threads": 1,
        "model": {
            "tiny": {
                "vocab_size": 320,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_layers": 1,
                "num_heads": 2,
                "pretrain_people": 2,
            }
        },
        "train": {"epochs": 6, "lr": 0.005, "batch_size": 10},
        "recover": {"epochs": 1, "lr": 0.002, "batch_size": 10},
        "unlearn": {"fade_steps": 2, "objective": "grad_diff", "redistribution": {"name": "importance"}},
    }
    return Spec(
        params=merge(defaults, params),
        num_forget=1,
        num_retain=1,
        num_holdout=1,
        objectives={"grad_diff": {"objective": "grad_diff", "alpha": 1.0}},
        redistributions={"none": {"name": "none"}, "importance": {"name": "importance"}},
        pruners=("wanda",),
        sparsities=(0.0, 0.5, "2:4"),
        orders=("prune-unlearn", "unlearn-prune"),
        lrs=(0.002, 0.004),
        steps=3,
        num_seeds=1,
    )


@pytest.fixture(scope="session")
def prepared(spec, tmp_path_factory):
    """The folder with what the cells of seed 0 share, and the references' rows; cells only add to it."""
    folder = tmp_path_factory.mktemp("seed-0")
    return folder, prepare(spec, "demo", 0, folder, [("none", 0.0), ("wanda", 0.5), ("wanda", "2:4")])
