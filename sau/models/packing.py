"""Several sequences in one row, one after the other, so that no work is padding.

Token by token nothing of a decoder knows where a sequence ends but its attention and its positions. Attention is cut
at the sequences' bounds by an attention function of our own (transformers' AttentionInterface), positions start anew.
Not every architecture keeps to that (recurrent layers, windows, positions of its own): `packs` finds out by trying.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_NAME = "sau_packed"

_TOLERANCE = 1e-3
"""Of the largest logit: many times what float32 rounds away, far less than a wrong position or neighbour changes."""

_known: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: None, *, bounds: Sequence[int], **options: Any
) -> tuple[Tensor, None]:
    """Causal attention of each sequence [1, heads, bounds[i]:bounds[i + 1], D] to itself alone."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if options.get("sliding_window") is not None:
        raise ValueError("packed attention has no window")
    parts = [
        sdpa_attention_forward(module, query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], None, **options)[0]
        for a, b in pairwise(bounds)
    ]
    return torch.cat(parts, dim=1), None


def forward_packed(model: Any, input_ids_T: Tensor, lengths: Sequence[int]) -> Any:
    """The model's output for sequences that lie in a row of T tokens, T the sum of their lengths."""
    from transformers import AttentionInterface  # with all that models are made of: seconds, for who runs none

    AttentionInterface.register(_NAME, _attend)
    ends = torch.tensor([0, *lengths]).cumsum(0)
    positions_T = torch.arange(int(ends[-1])) - ends[:-1].repeat_interleave(ends.diff())
    with attending(model, _NAME):
        return model(
            input_ids=input_ids_T[None],
            position_ids=positions_T[None].to(input_ids_T.device),
            use_cache=False,
            bounds=ends.tolist(),
        )


@contextlib.contextmanager
def attending(model: Any, name: str) -> Iterator[None]:
    """While open, the model has this attention implementation."""
    before = model.config._attn_implementation
    if name == before:
        yield
        return
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def packs(model: Any) -> bool:
    """Whether `forward_packed` gives what the model gives for each sequence alone; tried once per model.

    On CPU only: where work is paid by the token. A GPU would be kept waiting for many small attention calls.
    """
    if model.device.type != "cpu" or model.config._attn_implementation != "sdpa":
        return False
    if model not in _known:
        was_training = model.training
        model.eval()
        try:
            _known[model] = _agrees(model)
        finally:
            model.train(was_training)
    return _known[model]


@torch.no_grad()
def _agrees(model: Any) -> bool:
    """Two sequences packed, and the second alone; then with another first one, of which it must not notice a bit."""
    first_T, other_T, second_T = (torch.arange(start, start + 5) for start in (3, 9, 4))
    try:
        packed, changed = (
            forward_packed(model, torch.cat([ids_T, second_T]), [5, 5]).logits[0, 5:] for ids_T in (first_T, other_T)
        )
        alone = model(input_ids=second_T[None], use_cache=False).logits[0]
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError) as error:
        logging.getLogger("sau").debug("%s: rows are padded, not packed (%s)", type(model).__name__, error)
        return False
    near = float((packed - alone).abs().max()) <= _TOLERANCE * float(alone.abs().max())
    return near and torch.equal(packed, changed)
