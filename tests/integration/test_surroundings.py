"""The same recipe elsewhere: other variables, locale, threads and folder, and yet the same bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sau.checkpoint.manifest import check_files
from sau.config import merge, read_yaml
from sau.data.demo import demo_rows
from sau.data.records import write_shards
from sau.params import Params

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "model": {
        "prompt": "Qüestion: {question}\nAnswer:",
        "tiny": {
            "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_layers": 1, "num_heads": 2,
            "pretrain_people": 2,
        },
    },
    "train": {"epochs": 2},
    "recover": {"epochs": 1},
}  # fmt: skip
SCRIPT = "from sau.stages import RECIPES, run\nfor stage in RECIPES['bootstrap']: run(stage)"
VARIABLES = ("HF_HUB_OFFLINE", "LC_ALL", "LANG", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONUTF8")


def made_in(folder: Path, **environment: str) -> Path:
    """The checkpoint of the recipe of a first version, run in a folder with these variables and no others of them."""
    folder.mkdir()
    params = merge(read_yaml(ROOT / "params.yaml"), SMALL)
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    for part, people in (("train", "ab"), ("holdout", "cd")):
        write_shards([row for who in people for row in demo_rows(who, seed=1)], folder / "data" / part)
    env = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    env |= {"PYTHONPATH": str(ROOT)} | environment
    subprocess.run([sys.executable, "-c", SCRIPT], cwd=folder, env=env, check=True, timeout=300)
    return folder / "checkpoint"


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return made_in(tmp_path_factory.mktemp("ours") / "a", HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", LC_ALL="C.UTF-8")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("theirs") / "an öther folder, #2"
    return made_in(folder, OMP_NUM_THREADS="2", MKL_NUM_THREADS="2", LC_ALL="POSIX", PYTHONUTF8="0")


def test_every_digest_is_the_same(ours, theirs):
    assert check_files(ours) == check_files(theirs)


def test_side_files_say_nothing_of_where_they_were_written(ours):
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((ours / name).read_text())
        assert not content.keys() & {"transformers_version", "local_files_only", "is_local", "_name_or_path"}
        assert list(content) == sorted(content)


def test_what_was_made_on_the_way_is_the_same_too(ours, theirs):
    for name in ("base", "dense"):
        files = {path.name: path.read_bytes() for path in (ours.parent / "artifacts" / name).iterdir()}
        assert files == {path.name: path.read_bytes() for path in (theirs.parent / "artifacts" / name).iterdir()}


@pytest.mark.parametrize(
    ("section", "named"), [("objective", "npo"), ("redistribution", "importance"), ("objective", {"name": "simnpo"})]
)
def test_a_methods_defaults_are_part_of_the_parameters_digest(section, named):
    """Changing a default makes another digest, as it makes other weights."""
    plain = read_yaml(ROOT / "params.yaml")
    params = Params.model_validate(merge(plain, {"unlearn": {section: named}}))
    written = params.model_dump(mode="json")
    assert len(written["unlearn"][section]) > 1, "its fields are written out"
    assert Params.model_validate(written).digest == params.digest
    changed = next(key for key, value in written["unlearn"][section].items() if isinstance(value, float))
    written["unlearn"][section][changed] *= 0.5
    assert Params.model_validate(written).digest != params.digest
    assert Params.model_validate(written).training_digest == params.training_digest
