"""open-unlearning's own code, imported from a checkout that lies beside this repository; nothing of it is copied.

    git clone https://github.com/locuslab/open-unlearning

Needs what its functions need, which a plain installation here lacks: accelerate, omegaconf, scikit-learn, rouge-score.
"""

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import torch

from sau.models.batches import Encoded

IGNORED = -100


def modules(checkout: Path, *names: str) -> list[Any]:
    """Its modules by name. The packages' own `__init__` files are left out: they pull in deepspeed and lm-eval,
    which none of the functions compared here uses."""
    for package in ("trainer", "evals"):
        folder = checkout / "src" / package
        if not folder.is_dir():
            raise SystemExit(f"{checkout}: not a checkout of open-unlearning, src/{package} is missing")
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = [str(folder)]
    sys.path.insert(0, str(checkout / "src"))
    return [importlib.import_module(name) for name in names]


def item(sequence: Encoded, index: int) -> dict[str, Any]:
    """One of our sequences as its data sets give them: the same tokens, labels on the answer only."""
    ids = torch.tensor(sequence.input_ids)
    labels = ids.clone()
    labels[: sequence.prompt_length] = IGNORED
    return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids), "index": index}
