"""What a verification leaves for the next one: the adapted base model, made once, and again where it is damaged."""

from pathlib import Path

import pytest

import sau
from sau.config import read_yaml
from sau.data.demo import demo_rows
from sau.data.sets import Sets
from sau.models.dense import save_dense
from sau.models.identity import identity
from sau.models.sources import ModelParams, TinyParams, base_model
from sau.params import Params, load_params
from sau.stages import BASE, PARENT
from tasks.battery import base_opener, sampled
from tasks.engines.settings import KEPT
from tests.apart import own_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path):
    with own_settings(SAU_HOME=str(tmp_path / "home")):
        yield tmp_path / "home"


@pytest.fixture(scope="module")
def params():
    given = read_yaml(ROOT / "params.yaml")
    given["unlearn"]["adapt"] |= {"epochs": 1, "max_rows": 40}
    return Params.model_validate(given)


@pytest.fixture
def attempt(tmp_path):
    """An attempt's folder with a base model and a parent."""
    shape = TinyParams(vocab_size=320, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2)
    lm = base_model(ModelParams(tiny=shape), seed=0)
    save_dense(lm, tmp_path / BASE)
    sau.prune(lm, demo_rows("stays", seed=1), pruner="magnitude")
    sau.save(lm, tmp_path / PARENT)
    return tmp_path


def people(*names):
    return [row for name in names for row in demo_rows(name, seed=1)]


def test_the_adapted_base_model_is_made_once_and_again_for_other_rows_or_when_it_is_damaged(home, params, attempt):
    retain = people("a", "b", "c")
    first = base_opener(attempt, params, retain)()
    (kept,) = (home / KEPT / "base").iterdir()
    made = (kept / "model.safetensors").stat().st_mtime_ns
    again = base_opener(attempt, params, retain)()
    assert identity(again) == identity(first)
    assert (kept / "model.safetensors").stat().st_mtime_ns == made
    base_opener(attempt, params, people("a", "b"))()
    assert len(list((home / KEPT / "base").iterdir())) == 2
    weights = (kept / "model.safetensors").read_bytes()
    (kept / "model.safetensors").write_bytes(weights[:-4] + b"\x00\x00\x80\x3f")
    assert identity(base_opener(attempt, params, retain)()) == identity(first)
    assert (kept / "model.safetensors").read_bytes() == weights


def test_where_it_cannot_be_kept_it_is_made_again(home, params, attempt):
    (home / KEPT).mkdir(parents=True)
    (home / KEPT / "base").write_text("a file in the folder's place")
    retain = people("a")
    assert identity(base_opener(attempt, params, retain)()) == identity(base_opener(attempt, params, retain)())


def test_somebodys_leaving_changes_nobody_elses_rows():
    params = load_params(ROOT / "params.yaml")
    verify = params.verify.model_copy(update={"max_retain_rows": 60, "max_holdout_rows": 24})
    params = params.model_copy(update={"verify": verify})
    names = [f"stays-{n}" for n in range(14)]
    judges = people("judge-1", "judge-2", "judge-3")
    every = sampled(Sets(people("asks"), people(*names), judges), params)
    assert len(every.retain) == 60
    assert len(every.holdout) == 24
    for leaving in names:
        fewer = sampled(Sets(people("asks"), people(*(n for n in names if n != leaving)), judges), params)
        lost = [row for row in every.retain if row not in fewer.retain]
        assert {row["subject_id"] for row in lost} <= {leaving}
        assert fewer.holdout == every.holdout
    spared = sampled(Sets(people("asks"), people(*names), judges, spared=frozenset({names[9]})), params)
    assert spared.retain[0]["subject_id"] == names[9]
