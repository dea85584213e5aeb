"""params.yaml: strict, bounded, each refusal naming what is allowed."""

from pathlib import Path

import pytest
import yaml

from sau.config import merge, read_yaml
from sau.errors import ConfigError
from sau.params import Params, load_params

ROOT = Path(__file__).resolve().parents[2]


def write(folder, text):
    (folder / "p.yaml").write_text(text)
    return folder / "p.yaml"


@pytest.mark.parametrize("profile", [None, *sorted((ROOT / "profiles").glob("*.yaml"))])
def test_the_shipped_parameters_are_valid(profile, tmp_path):
    shipped = read_yaml(ROOT / "params.yaml")
    merged = merge(shipped, read_yaml(profile)) if profile else shipped
    load_params(write(tmp_path, yaml.safe_dump(merged)))


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("seed", -1, "seed"),
        ("sed", 1, "sed"),
        ("train", {"epochs": 1, "lr": 0}, "train.lr"),
        ("num_threads", "x", "num_threads"),
    ],
)
def test_a_wrong_parameter_is_named(tmp_path, key, value, named):
    broken = read_yaml(ROOT / "params.yaml") | {key: value}
    with pytest.raises(ConfigError, match=named):
        load_params(write(tmp_path, yaml.safe_dump(broken)))


@pytest.mark.parametrize("prompt", ["no placeholder", "{other}", "{question} {1}", "{question"])
def test_a_prompt_has_to_take_the_question(prompt):
    shipped = read_yaml(ROOT / "params.yaml")
    with pytest.raises(ValueError, match="question"):
        Params.model_validate(merge(shipped, {"model": {"prompt": prompt}}))
