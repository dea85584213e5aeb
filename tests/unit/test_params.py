"""params.yaml and the mask's own rules: strict, bounded, each refusal naming what is allowed."""

from pathlib import Path

import pytest
import torch
import yaml

from sau.config import merge, read_yaml
from sau.errors import ConfigError, SparsityError
from sau.mask import check_structure, mask_digest, pack, parse_structure, sparsity, unpack
from sau.params import Params, load_params
from sau.stages import RECIPES, STAGES

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


@pytest.mark.parametrize("text", ["a: &x 1\nb: *x\n", "- 1\n", "a: [\n", "x" * (1 << 21)])
def test_hostile_yaml_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"p\.yaml"):
        read_yaml(write(tmp_path, text))


def test_another_component_replaces_the_old_one_with_its_options():
    base = {"unlearn": {"objective": {"name": "npo", "beta": 0.1}, "lr": 1}}
    assert merge(base, {"unlearn": {"objective": {"name": "simnpo"}}}) == {
        "unlearn": {"objective": {"name": "simnpo"}, "lr": 1}
    }
    assert merge(base, {"unlearn": {"objective": {"beta": 0.2}}})["unlearn"]["objective"] == {
        "name": "npo",
        "beta": 0.2,
    }


# -- dvc.yaml and the recipe ------------------------------------------------------------------------


@pytest.mark.parametrize(("recipe", "file"), [("bootstrap", "dvc.yaml"), ("forget", "dvc.forget.yaml")])
def test_dvc_runs_the_recipes_steps_in_order_and_nothing_else(recipe, file):
    stages = yaml.safe_load((ROOT / file).read_text())["stages"]
    assert tuple(stages) == RECIPES[recipe]
    made: set[str] = set()
    inputs = {"data", "forget", "parent", "base", "data/train"}
    for name, stage in stages.items():
        assert stage["cmd"] == f"python -m sau {name}"
        assert name in STAGES
        assert set(stage.get("deps", ())) <= made | inputs, f"{name} depends on what no earlier step makes"
        made |= set(stage["outs"])
        assert [next(iter(m)) for m in stage["metrics"]] == [f"metrics/{name}.json"]


@pytest.mark.parametrize("file", ["dvc.yaml", "dvc.forget.yaml"])
def test_every_parameter_that_a_step_reads_is_a_dvc_parameter(file):
    """A step that reads params.<section> without declaring it would not be run again when it changes."""
    import inspect
    import re

    for name, stage in yaml.safe_load((ROOT / file).read_text())["stages"].items():
        source = inspect.getsource(STAGES[name])
        if "_pretrain" in source:
            import sau.stages

            source += inspect.getsource(sau.stages._pretrain)
        read = set(re.findall(r"\bparams\.(\w+)", source)) - {"model_dump"}
        declared = {p.split(".")[0] for p in stage.get("params", ())}
        assert read == declared, f"{file}: {name}"


# -- mask -------------------------------------------------------------------------------------------


def test_pack_and_unpack_are_inverse_for_any_shape():
    torch.manual_seed(0)
    for shape in [(1, 1), (3, 5), (7, 16), (2, 9)]:
        kept = torch.rand(shape) > 0.3
        assert torch.equal(unpack(pack(kept), shape), kept)


def test_the_digest_depends_on_names_shapes_and_bits():
    kept = torch.ones(2, 4, dtype=torch.bool)
    one_off = kept.clone()
    one_off[0, 0] = False
    digests = {mask_digest(m) for m in ({"a": kept}, {"b": kept}, {"a": kept.view(4, 2)}, {"a": one_off})}
    assert len(digests) == 4


def test_structures():
    assert parse_structure("unstructured") is None
    assert parse_structure("2:4") == (2, 4)
    for wrong in ("4:2", "0:4", "dense", "2:", "2:2"):
        with pytest.raises(SparsityError, match="2:4"):
            parse_structure(wrong)


def test_a_mask_that_is_not_what_was_asked_for_is_refused():
    kept = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]], dtype=torch.bool)
    check_structure({"w": kept}, "2:4")
    check_structure({"w": kept}, "unstructured", 0.5)
    assert sparsity({"w": kept}) == 0.5
    with pytest.raises(SparsityError, match="w: 2 groups"):
        check_structure({"w": kept}, "1:4")
    with pytest.raises(SparsityError, match=r"asked for 0\.9"):
        check_structure({"w": kept}, "unstructured", 0.9)
    with pytest.raises(SparsityError, match="no multiple"):
        check_structure({"w": kept[:, :3]}, "2:4")
