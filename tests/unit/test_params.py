"""params.yaml: strict, bounded, each refusal naming what is allowed."""

import re
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


@pytest.mark.parametrize("section", ["unlearn", "prune", "verify"])
def test_one_process_is_no_part_of_the_recipe_and_two_are(section):
    shipped = read_yaml(ROOT / "params.yaml")
    given: tuple[dict, ...] = ({}, {"processes": 1}, {"processes": 2})
    one, said, two = (Params.model_validate(merge(shipped, {section: own})) for own in given)
    assert "processes" not in one.model_dump(mode="json")[section]
    assert one.digest == said.digest != two.digest
    assert (one.training_digest == two.training_digest) == (section != "prune")
    assert getattr(Params.model_validate(two.model_dump(mode="json")), section).processes == 2


@pytest.mark.parametrize(
    ("given", "stage", "these", "setting", "command"),
    [
        ({"unlearn.processes": 2}, "unlearn", 1, "unlearn",
         "torchrun --standalone --nproc-per-node 2 -m sau stage unlearn"),
        ({}, "unlearn", 2, "unlearn", "python -m sau stage unlearn"),
        ({"unlearn.processes": 2}, "package", 2, "unlearn", "python -m sau stage package"),
        ({"prune.processes": 3}, "prune", 2, "prune", "torchrun --standalone --nproc-per-node 3 -m sau stage prune"),
        ({"prune.processes": 2}, "adopt", 2, "unlearn", "python -m sau stage adopt"),  # which prunes nothing
        ({"prune.processes": 2, "adopt.prune": True}, "adopt", 1, "prune",
         "torchrun --standalone --nproc-per-node 2 -m sau stage adopt"),
    ],
)  # fmt: skip
def test_a_step_on_other_processes_than_it_has_to_have_is_refused(given, stage, these, setting, command):
    content = read_yaml(ROOT / "params.yaml")
    for key, value in given.items():
        content[key.split(".")[0]][key.split(".")[1]] = value
    params = Params.model_validate(content)
    with pytest.raises(ConfigError, match=re.escape(f"({setting}.processes), not {these}: {command}")):
        params.check_processes(stage, these)
    needed = int(command.split()[3]) if command.startswith("torchrun") else 1
    params.check_processes(stage, needed)
