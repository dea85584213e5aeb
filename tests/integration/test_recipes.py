"""The dvc.yaml of an attempt: a recipe of the checkout, with the inputs and the processes that the attempt has."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from sau.config import read_yaml
from tasks.prepare import resolve_params, write_recipe

ROOT = Path(__file__).parents[2]
RECIPES = {path.name: path.read_text() for path in sorted(ROOT.glob("dvc*.yaml"))}
MAY_LACK = {"base", "dense", "earlier"}


@pytest.fixture
def written(tmp_path):
    """The text of the dvc.yaml that comes of a recipe."""
    for name in RECIPES:
        shutil.copyfile(ROOT / name, tmp_path / name)

    def write(recipe, there=(), **overrides):
        params = resolve_params(read_yaml(ROOT / "params.yaml"), overrides)
        write_recipe(SimpleNamespace(path=tmp_path), params, recipe, there)
        return (tmp_path / "dvc.yaml").read_text()

    return write


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_with_all_its_inputs_is_as_it_is_in_the_checkout(written, recipe):
    assert written(recipe, MAY_LACK) == RECIPES[recipe]


@pytest.mark.parametrize("lacks", sorted(MAY_LACK))
@pytest.mark.parametrize("recipe", RECIPES)
def test_an_input_that_is_not_there_is_none_of_its_steps_and_nothing_else_changes(written, recipe, lacks):
    found, given = (yaml.safe_load(text)["stages"] for text in (written(recipe, MAY_LACK - {lacks}), RECIPES[recipe]))
    assert found.keys() == given.keys()
    for name, step in given.items():
        assert found[name].get("deps") == ([d for d in step["deps"] if d != lacks] if "deps" in step else None)
        assert found[name] | {"deps": 0} == step | {"deps": 0}


def test_a_step_is_on_as_many_processes_as_the_parameters_say(written):
    given = yaml.safe_load(RECIPES["dvc.forget.yaml"])["stages"]
    found = yaml.safe_load(written("dvc.forget.yaml", MAY_LACK, unlearn={"processes": 3}))["stages"]
    assert found["unlearn"].pop("cmd") == "torchrun --standalone --nproc-per-node 3 -m sau stage unlearn"
    del given["unlearn"]["cmd"]
    assert found == given
