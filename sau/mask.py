"""The mask: which weights of which matrix survive pruning. True = KEPT, everywhere.

A mask is taken once, from the pruner or from the checkpoint, and travels with the weights: `w != 0`
is not the mask (tens of thousands of a dense model's weights are exactly zero).
Shape suffixes: O output features, I input features.
"""

import hashlib
import math
import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from sau.errors import SparsityError

Mask = dict[str, Tensor]
"""Parameter name -> bool of the parameter's own shape, True = kept.

That is [O, I] but where a model keeps its matrices otherwise, see `sau.models.layers.Matrix`.
"""

_N_OF_M = re.compile(r"^(\d+):(\d+)\Z")


def parse_structure(structure: str) -> tuple[int, int] | None:
    """None for "unstructured", (n, m) for "n:m": n weights kept of every m in a row.

    Raises:
        SparsityError: anything else.
    """
    if structure == "unstructured":
        return None
    match = _N_OF_M.match(structure)
    if match and 0 < int(match[1]) < int(match[2]):
        return int(match[1]), int(match[2])
    raise SparsityError(f"structure {structure!r}: has to be unstructured or n:m with 0 < n < m, such as 2:4")


def sparsity(mask: Mapping[str, Tensor]) -> float:
    """Share of pruned weights in [0, 1] over all masked matrices; 0 where there is none."""
    total = sum(kept.numel() for kept in mask.values())
    return 1.0 - sum(int(kept.sum()) for kept in mask.values()) / total if total else 0.0


def check_structure(mask: Mapping[str, Tensor], structure: str, target: float | None = None) -> None:
    """Refuse a mask that is not what was asked for.

    Unstructured: every matrix's sparsity is `target` up to rounding one weight per row. n:m: exactly n kept in
    every group of m inputs.

    Raises:
        SparsityError: names the matrix, what it has and what was asked.
    """
    pattern = parse_structure(structure)
    for name, kept_OI in mask.items():
        if pattern:
            n, m = pattern
            if kept_OI.shape[1] % m:
                raise SparsityError(f"{name}: {kept_OI.shape[1]} inputs are no multiple of {m}, structure {structure}")
            counts = kept_OI.reshape(kept_OI.shape[0], -1, m).sum(-1)
            if not bool((counts == n).all()):
                raise SparsityError(f"{name}: {int((counts != n).sum())} groups of {m} do not keep exactly {n}")
        elif target is not None:
            achieved = 1.0 - kept_OI.float().mean().item()
            if abs(achieved - target) > 1.0 / kept_OI.shape[1]:
                raise SparsityError(f"{name}: sparsity {achieved:.5f}, asked for {target} within 1/{kept_OI.shape[1]}")


@torch.no_grad()
def apply_mask(model: nn.Module, mask: Mapping[str, Tensor]) -> None:
    """Set every pruned weight to +0.0. (Multiplying would write -0.0: equal to torch, another file to a digest.)"""
    parameters = dict(model.named_parameters())
    for name, kept_OI in mask.items():
        parameters[name].masked_fill_(~kept_OI, 0.0)


def check_mask(model: nn.Module, mask: Mapping[str, Tensor]) -> None:
    """Refuse a model with any pruned weight that is not +0.0, bit for bit.

    Raises:
        SparsityError: names the matrix and how many weights moved.
    """
    check_zeros(dict(model.named_parameters()), mask)


def check_zeros(parameters: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> None:
    """`check_mask`, of parameters by name."""
    for name, kept_OI in mask.items():
        weight = parameters[name].detach()
        bits = weight.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()])
        if moved := int((bits.masked_fill(kept_OI, 0) != 0).sum()):
            raise SparsityError(f"{name}: {moved} pruned weights are not +0.0")


def pack(kept_OI: Tensor) -> np.ndarray:
    """Row-major bits, eight a byte, first weight in the highest bit: uint8 [ceil(O*I/8)]."""
    return np.packbits(kept_OI.cpu().numpy().reshape(-1))


def unpack(packed: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `pack`: bool of `shape`.

    Raises:
        ValueError: these are not the bits of that shape.
    """
    count = math.prod(shape)
    if packed.size != -(-count // 8):
        raise ValueError(f"{packed.size} bytes are not the bits of {count} weights")
    return torch.from_numpy(np.unpackbits(packed, count=count).astype(bool).reshape(shape))


def mask_digest(mask: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and packed bits, in order of name: the mask's identity."""
    digest = hashlib.sha256()
    for name in sorted(mask):
        kept = mask[name]
        digest.update(f"{name} {tuple(kept.shape)}\n".encode())
        digest.update(pack(kept).tobytes())
    return digest.hexdigest()
