"""Where a model runs, in which numbers, and how much of a batch and of its activations is in memory at once."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import Field

from sau.config import Section
from sau.errors import ConfigError
from sau.models.autocast import set_autocast
from sau.models.language_model import LanguageModel

_DEVICE = r"^(auto|cpu|mps|cuda(:[0-9]+)?)$"


class Placement(Section):
    """Device and dtype of every step. `auto` is a CUDA device where there is one, else mps, else the CPU: results then
    differ between machines in the last bits, and a rerun elsewhere gives another digest.

    Attributes:
        autocast: see `sau.models.autocast`.
        micro_batch: at most so many of a step's rows go through the model at once, their gradients added up: the same
            loss, to rounding; None takes them all.
        gradient_checkpointing: see `sau.models.checkpointing`.
        deterministic: on a CUDA device only what gives the same bits again, which an operation that has no such form
            refuses; else a rerun of unlearning is another digest. A CPU always does.
    """

    device: str = Field("cpu", pattern=_DEVICE)
    dtype: Literal["float32", "bfloat16"] = "float32"
    autocast: bool = False
    micro_batch: int | None = Field(None, ge=1, le=1024)
    gradient_checkpointing: bool = False
    deterministic: bool = Field(True, exclude_if=lambda deterministic: deterministic)

    @property
    def on_host(self) -> "Placement":
        """The same on the CPU: for what is divided before it goes to a device."""
        return self.model_copy(update={"device": "cpu"})

    def put(self, lm: LanguageModel) -> LanguageModel:
        """The model, moved in place with its mask; integers and pruned zeros stay what they are.

        Raises:
            ConfigError: this machine has no such device.
        """
        device = device_of(self.device)
        if device.type == "cuda":
            repeat(self.deterministic)
        lm.model.to(device=device, dtype=getattr(torch, self.dtype))
        lm.mask = lm.mask and {name: kept.to(device) for name, kept in lm.mask.items()}
        set_autocast(lm.model, self.autocast)
        lm.micro_batch, lm.gradient_checkpointing = self.micro_batch, self.gradient_checkpointing
        return lm


def repeat(same_bits: bool) -> None:
    """Whether this process, from now on, takes only operations that give the same bits again (PyTorch's notes on
    reproducibility): among those that do not are sums by index and the fused attention's gradient."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first product
    torch.use_deterministic_algorithms(same_bits)
    # All memory is written here before it is read.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # known at run time


@contextmanager
def repeatable() -> Iterator[None]:
    """Say which setting lets an operation run that has no form which gives the same bits again.

    Raises:
        ConfigError: such an operation was met.
    """
    try:
        yield
    except RuntimeError as error:
        if "have a deterministic implementation" not in str(error):
            raise
        raise ConfigError(
            f"model.deterministic true: {str(error).split()[0]} has no form on this device that gives the same bits "
            "again; with false it runs, and a rerun is another digest"
        ) from error


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
