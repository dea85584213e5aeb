"""Gradient checkpointing: decoder blocks keep their inputs alone, and are run again in the backward pass.

A third more work, for one block's activations instead of all of them. The same numbers bit for bit, where a forward
pass gives the same twice. transformers' own does it in training mode only, in which dropout is on.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from sau.models.layers import decoder_blocks
from sau.models.packing import attending


@contextlib.contextmanager
def checkpointed(model: Any) -> Iterator[None]:
    """While open, a pass with gradients keeps what goes into each decoder block and nothing within.

    Copies of the model that are made meanwhile have it, too, for ever: harmless, for they are run without gradients.

    Raises:
        SparsityError: the model has no list of decoder blocks.
    """
    blocks = list(decoder_blocks(model)[1])
    for block in blocks:
        block.forward = partial(_run, model, block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _run(model: Any, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    # Whatever attention the model has by the time of the backward pass, this is the one to run again.
    name = model.config._attn_implementation
    again = lambda: (contextlib.nullcontext(), attending(model, name))  # noqa: E731
    return checkpoint(forward, *args, use_reentrant=False, context_fn=again, **kwargs)
