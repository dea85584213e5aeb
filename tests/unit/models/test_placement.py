"""Where a model runs, and in which numbers."""

import pytest
import torch

from sau.errors import ConfigError
from sau.models.placement import Placement, device_of


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
