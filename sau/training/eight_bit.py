"""Optimizer state in eight bits, by bitsandbytes: a byte for each number, and a float32 scale for each block of 256.

Block-wise dynamic quantisation: Dettmers et al. 2022, arXiv 2110.02861.
"""

import logging
from functools import cache
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from sau.errors import ConfigError

BLOCK = 256
"""Numbers that have a scale together."""

LEAST = 4096
"""Tensors with fewer numbers stay float32: they are few bytes, and norms suffer most."""


def check_here(state: str) -> None:
    """Refuse `8bit` as the optimizer's state where bitsandbytes is not installed.

    Raises:
        ConfigError: it is not.
    """
    if state == "8bit" and find_spec("bitsandbytes") is None:
        raise ConfigError(
            "unlearn.optimizer_state 8bit: needs bitsandbytes (pip install '.[eight-bit]'); else float32 or none"
        )


def pack(values: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """(codes [N] of a byte each, scales [ceil(N / 256)]) of float32 values [N]; without `signed`, of none below 0."""
    codes, found = _functional().quantize_blockwise(values, code=_table(signed, str(values.device)), blocksize=BLOCK)
    return codes, found.absmax


def unpack(codes: Tensor, scales: Tensor, *, signed: bool) -> Tensor:
    """The float32 values [N] that `pack` took, to about a hundredth of each."""
    table = _table(signed, str(codes.device))
    values: Tensor = _functional().dequantize_blockwise(codes, absmax=scales, code=table, blocksize=BLOCK)
    return values


@cache
def _functional() -> Any:
    log = logging.getLogger("bitsandbytes")
    level = log.level
    log.setLevel(logging.ERROR)  # it tells of 4-bit kernels that are not here
    try:
        import bitsandbytes.functional
    finally:
        log.setLevel(level)
    return bitsandbytes.functional


@cache
def _table(signed: bool, device: str) -> Tensor:
    table: Tensor = _functional().create_dynamic_map(signed=signed).to(device)
    return table
