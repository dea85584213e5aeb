"""Mixed precision: a model whose weights are float32 computes its matrix products in bfloat16 (torch.autocast).

On processors and GPUs that have bfloat16 products most of a pass takes a fraction of the time; what is trained,
stored and compared stays float32.
"""

import contextlib
from typing import Any

import torch

_NAME = "sau_autocast"


def set_autocast(model: Any, on: bool) -> None:
    """Say how the model, and copies of it, compute from here on."""
    setattr(model, _NAME, on)


def is_autocast(model: Any) -> bool:
    """Whether it computes in bfloat16 what it stores in float32."""
    return bool(getattr(model, _NAME, False))


def computing(model: Any) -> contextlib.AbstractContextManager[Any]:
    """Every pass through a model runs within; does nothing where nobody has set anything else."""
    if not is_autocast(model):
        return contextlib.nullcontext()
    return torch.autocast(model.device.type, torch.bfloat16)
