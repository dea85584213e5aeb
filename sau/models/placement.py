"""Where a model runs, and in which numbers."""

import re
from typing import Literal

import torch
from pydantic import Field

from sau.config import Section
from sau.errors import ConfigError
from sau.models.language_model import LanguageModel

_DEVICE = r"^(auto|cpu|mps|cuda(:[0-9]+)?)$"


class Placement(Section):
    """Device and dtype of every step. `auto` is a CUDA device where there is one, else mps, else the CPU: results then
    differ between machines in the last bits, and a rerun elsewhere gives another digest."""

    device: str = Field("cpu", pattern=_DEVICE)
    dtype: Literal["float32", "bfloat16"] = "float32"

    def put(self, lm: LanguageModel) -> LanguageModel:
        """The model, moved in place with its mask; integers and pruned zeros stay what they are.

        Raises:
            ConfigError: this machine has no such device.
        """
        device = device_of(self.device)
        lm.model.to(device=device, dtype=getattr(torch, self.dtype))
        lm.mask = lm.mask and {name: kept.to(device) for name, kept in lm.mask.items()}
        return lm


def device_of(name: str) -> torch.device:
    """The device by its name in the parameters.

    Raises:
        ConfigError: no such name, or this machine has no such device.
    """
    if not re.fullmatch(_DEVICE, name):
        raise ConfigError(f"device {name!r}: has to be auto, cpu, mps, cuda or cuda:N")
    if name == "auto":
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(found)
    device = torch.device(name)
    there = {"cpu": 1, "mps": int(torch.backends.mps.is_available()), "cuda": torch.cuda.device_count()}[device.type]
    if (device.index or 0) >= there:
        raise ConfigError(f"device {name}: this machine has {there} of the kind {device.type}")
    return device
