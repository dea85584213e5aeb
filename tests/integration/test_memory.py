"""What this machine can hold: said before anything is loaded, refused where it cannot, and measured afterwards."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
from transformers import LlamaConfig

import tasks.memory as memory
from sau.config import read_yaml
from sau.errors import ConfigError
from sau.params import load_params
from sau.unlearn.memory import PROCESS_BYTES


@pytest.fixture
def params(tmp_path):
    (tmp_path / "params.yaml").write_text(json.dumps(read_yaml(memory.Path(__file__).parents[2] / "params.yaml")))
    return load_params(tmp_path / "params.yaml")


@pytest.fixture
def folder(tmp_path):
    """A config of 8 billion parameters, and nothing else."""
    LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, vocab_size=128256,
        num_key_value_heads=8,
    ).save_pretrained(tmp_path / "big")  # fmt: skip
    return tmp_path / "big"


def test_what_does_not_fit_is_refused_by_its_config_with_what_helps(folder, params, monkeypatch):
    monkeypatch.setattr(memory, "_memory_of", lambda device: 200 * 10**9)
    with pytest.raises(ConfigError, match=r"8\.0B parameters, .* does not fit, would fit with unlearn\.adapt=null"):
        memory.check_fits(folder, params, sparsity=0.5, has_base=True)
    monkeypatch.setattr(memory, "_memory_of", lambda device: 10**9)
    with pytest.raises(ConfigError, match="no setting makes it fit"):
        memory.check_fits(folder, params, sparsity=0.5, has_base=True)
    monkeypatch.setattr(memory, "_memory_of", lambda device: 10**13)
    found = memory.check_fits(folder, params, sparsity=0.5, has_base=True)
    assert found.fits
    assert found.verdict.endswith("fits")


def test_what_several_judging_processes_hold_is_said_though_it_is_not_planned(folder, params, monkeypatch):
    monkeypatch.setattr(memory, "_memory_of", lambda device: 10**13)
    forecast = partial(memory.forecast, folder, sparsity=0.5, has_base=True)
    alone = forecast(params)
    assert alone.judging == ""
    two = params.model_copy(update={"verify": params.verify.model_copy(update={"processes": 2})})
    said = forecast(two)
    assert said.judging == (
        "not in this plan: judging, by 2 processes with a whole model each: 65.4 GB together at least"
    )  # 2 x (8.03e9 weights of 4 bytes, and Python)
    assert (said.parts, said.verdict) == (alone.parts, alone.verdict)


def test_this_machine_has_memory():
    assert memory._memory_of(memory.device_of("cpu")) > PROCESS_BYTES


def test_the_measured_peak_stands_beside_the_plan(tmp_path):
    ws = SimpleNamespace(path=tmp_path)
    assert memory.in_words(ws) == ""
    memory.note(ws, planned=3_100_000_000)
    memory.note(ws, snapshot=200_000_000)
    memory.note(ws, unlearn=3_000_000_000)
    assert memory.in_words(ws) == "planned 3.1 GB, measured 3.0 GB (unlearn)"


def test_a_config_that_makes_no_model_is_named(tmp_path, params):
    with pytest.raises(ConfigError, match="its config makes no model"):
        memory.forecast(tmp_path, params, sparsity=0.5, has_base=False)
