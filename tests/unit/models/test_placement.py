"""Where a model runs, and in which numbers."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from sau.data.demo import demo_rows
from sau.errors import ConfigError
from sau.models.placement import Placement, device_of, repeat, repeatable
from sau.training.finetune import FinetuneParams, finetune
from sau.verify.evidence.likelihoods import mean_logps


def test_a_model_and_its_mask_are_moved_and_zeros_stay(tiny):
    lm = tiny(vocab_size=400)
    name = "model.layers.0.mlp.up_proj.weight"
    lm.mask = {name: torch.rand_like(lm.model.get_parameter(name)) > 0.5}
    with torch.no_grad():
        lm.model.get_parameter(name).mul_(lm.mask[name])
    placed = Placement(dtype="bfloat16").put(lm)
    assert placed is lm
    assert lm.model.dtype == torch.bfloat16
    assert not lm.model.get_parameter(name)[~lm.mask[name]].any()


def test_autocast_computes_in_bfloat16_and_stores_and_trains_float32(tiny):
    lm = tiny(vocab_size=400)
    rows = demo_rows("demo-0001", seed=1)
    exact = mean_logps(lm, lm.encode(rows))
    Placement(autocast=True).put(lm)
    copied = replace(lm, model=copy.deepcopy(lm.model))
    near = mean_logps(copied, copied.encode(rows))
    assert not np.array_equal(near, exact)
    assert np.abs(near - exact).max() < 0.05
    finetune(copied, copied.encode(rows), FinetuneParams(epochs=3, lr=0.01), seed=0)
    assert mean_logps(copied, copied.encode(rows)).mean() > near.mean() + 1
    assert {parameter.dtype for parameter in copied.model.parameters()} == {torch.float32}
    assert copied.answer(rows[0]["question"])
    Placement().put(lm)
    assert np.array_equal(mean_logps(lm, lm.encode(rows)), exact)


@pytest.mark.parametrize("name", ["cuda:99", "cuda"] if not torch.cuda.is_available() else ["cuda:99"])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(ConfigError, match=f"device {name}: this machine has [0-9]+ of the kind cuda"):
        device_of(name)


def test_a_device_nobody_knows_is_refused():
    with pytest.raises(ConfigError, match="'tpu': has to be auto, cpu, mps, cuda or cuda:N"):
        device_of("tpu")
    with pytest.raises(ValueError, match="device"):
        Placement(device="gpu")


def test_auto_is_what_there_is():
    assert device_of("auto").type == ("cuda" if torch.cuda.is_available() else device_of("auto").type)
    assert device_of("cpu") == torch.device("cpu")


def test_an_operation_that_gives_other_bits_each_time_is_refused_with_the_setting_that_lets_it_run():
    values, where = torch.zeros(3), torch.tensor([1])
    try:
        repeat(same_bits=True)
        with pytest.raises(ConfigError, match=r"model\.deterministic true: put_ .* with false it runs"), repeatable():
            values.put_(where, torch.ones(1))
        with pytest.raises(RuntimeError, match="shape"), repeatable():
            values.view(2)
        repeat(same_bits=False)
        values.put_(where, torch.ones(1))
    finally:
        repeat(same_bits=False)
    assert values.tolist() == [0, 1, 0]


def test_only_what_differs_from_the_rule_stands_in_a_recipe():
    assert "deterministic" not in Placement().model_dump()
    assert Placement(deterministic=False).model_dump()["deterministic"] is False
