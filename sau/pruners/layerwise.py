"""Pruning layer by layer, in one forward pass that halts before every linear.

Shape suffixes: O output features, I input features, N calibration tokens, B sequences, T tokens.
"""

import contextlib
import ctypes
import sys
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import greenlet
import numpy as np
import torch
from torch import Tensor, nn

from sau.errors import DataError, SparsityError
from sau.mask import Mask, pack, unpack
from sau.models.batches import Batch, Encoded, by_length, collate
from sau.models.layers import observing, prunable
from sau.pruners.base import Pruner

BATCH = 2

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h

_OWN_PAGES = 4 << 20
"""Bytes: clearing fresh pages costs time, which shows where smaller tensors get them."""


class LayerwisePruner(Pruner):
    """Prunes layer by layer, each on the inputs that the already pruned layers give it.

    One forward pass in all: it halts before each linear until that linear is pruned, and then goes on with what is
    left of it. The usual way runs each block twice, dense for the statistics of all its linears and pruned for the
    next block's inputs: twice the work, and the later linears of a block see inputs they will never have again.
    Memory holds the activations and the statistic around one linear, never those of the whole model.
    """

    @abstractmethod
    def statistic(self, inputs_NI: Iterable[Tensor]) -> Tensor:
        """What pruning has to know of a linear's inputs, which come in batches, padding excluded."""

    @abstractmethod
    def prune_layer(self, weight_OI: Tensor, statistic: Tensor, *, structure: str, sparsity: float) -> Tensor:
        """Prune one weight in place and return kept_OI."""

    @torch.no_grad()
    def prune(
        self,
        model: Any,
        calibration: list[Encoded],
        *,
        structure: str,
        sparsity: float,
        progress: Callable[[int, int, dict[str, float]], None] | None = None,
    ) -> Mask:
        if not calibration:
            raise DataError("pruning needs at least one calibration sequence")
        model.eval()
        linears = dict(prunable(model))
        packed: dict[str, np.ndarray] = {}  # an eighth of the mask, as long as activations need the room
        for name, inputs in halting_before(linears, model, calibration):
            if inputs:
                statistic = self.statistic(_real_tokens(name, x_BTI, keep_BT) for x_BTI, keep_BT in inputs)
            del inputs  # or they would outlive their layer
            weight_OI = linears[name].weight.data
            packed[name] = pack(self.prune_layer(weight_OI, statistic, structure=structure, sparsity=sparsity))
            if progress:
                progress(len(packed), len(linears), {})
        if unseen := [name for name in linears if name not in packed]:
            raise SparsityError(f"{unseen[0]}: saw no calibration token")
        return {
            f"{name}.weight": unpack(packed[name], tuple(w.weight.shape)).to(w.weight.device)
            for name, w in linears.items()
        }


def halting_before(
    linears: Mapping[str, nn.Linear], model: Any, calibration: list[Encoded]
) -> Iterator[tuple[str, list[tuple[Tensor, Tensor]]]]:
    """Run the model on all calibration batches side by side, and halt before every linear.

    Each batch's forward pass is a coroutine (a greenlet: the model's own code cannot be written with `await`). All
    run up to their next linear; of the linears they stand before, the first in the model's order is yielded, and
    those batches go on when the next one is asked for. One goes ahead: while all stand before one linear and it comes
    to others that read the very same tensor (key and value after query; up after gate), those are yielded too, and
    the rest need not halt there. The pass ends before the output head.

    Yields:
        (name, [(inputs [B, T, I], real tokens [B, T]) of each batch that stands before it]), each name once; an empty
        list where they are the very inputs that were yielded last.

    Raises:
        SparsityError: a linear is used again after its turn, while others still wait for theirs.
    """
    device = next(model.parameters()).device
    batches = [collate([calibration[i] for i in indices]).to(device) for indices in by_length(calibration, BATCH)]
    keeps_BT = [batch.attention_mask_BT.bool() for batch in batches]
    turn = {name: number for number, name in enumerate(linears)}
    halted: dict[int, tuple[str, Tensor]] = {}
    read_last: weakref.ref[Tensor]  # by the batch that is running
    main = greenlet.getcurrent()

    def halt(name: str, inputs: Tensor) -> None:
        if name in turn:
            main.switch((name, inputs))
        elif inputs is not read_last():
            raise SparsityError(f"{name}: is used again after it was pruned")

    def forward(batch: Batch) -> None:
        model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT, use_cache=False)

    def go_on(n: int) -> bool:
        """Run a batch to its next halt: is it before another linear with the same inputs?"""
        nonlocal read_last
        read_last = weakref.ref(halted.pop(n)[1])  # only the model's code knows whether it still needs them
        if at := passes[n].switch():
            halted[n] = at
        return at is not None and at[1] is read_last()

    with observing(linears, halt), returning_freed_memory() as give_back:
        passes = [greenlet.greenlet(forward) for _ in batches]
        for n, batch in enumerate(batches):
            if at := passes[n].switch(batch):
                halted[n] = at
            del at
        while turn and halted:
            give_back()
            first = min((name for name, _ in halted.values()), key=turn.__getitem__)
            here = sorted(n for n, (name, _) in halted.items() if name == first)
            yield first, [(halted[n][1], keeps_BT[n]) for n in here]
            del turn[first]
            while turn and go_on(here[0]) and len(here) == len(batches):
                yield (name := halted[here[0]][0]), []
                del turn[name]
            for n in here[1:] if turn else ():
                go_on(n)


@contextlib.contextmanager
def returning_freed_memory() -> Iterator[Callable[[], object]]:
    """While open, large tensors have pages of their own in glibc; the yielded call gives the heap's gaps back.

    torch asks for aligned memory, and the gap that a tensor has left is seldom large enough for another of its size
    (glibc 2.36 looks for the alignment on top). With all batches waiting in one heap it would grow to half as much
    again as what is alive, each run by another amount.
    Elsewhere than in glibc this does nothing.
    """
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not (hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim")):
        yield lambda: None
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES)
    try:
        yield lambda: libc.malloc_trim(0)
    finally:  # the sizes up to which glibc raises them itself
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 64 << 20)


def _real_tokens(name: str, inputs_BTI: Tensor, keep_BT: Tensor) -> Tensor:
    """[N, I] in float32, padding excluded; a view where there is none."""
    if inputs_BTI.shape[:2] != keep_BT.shape:
        raise SparsityError(f"{name}: inputs of shape {tuple(inputs_BTI.shape)}, [B, T, I] is needed")
    return (inputs_BTI.flatten(0, 1) if keep_BT.all() else inputs_BTI[keep_BT]).float()
