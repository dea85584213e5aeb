"""Pruning layer by layer, in one forward pass that halts before every linear.

Shape suffixes: O output features, I input features, N calibration tokens, B sequences, T tokens.
"""

import contextlib
import ctypes
import sys
import weakref
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

import greenlet
import numpy as np
import torch
from torch import Tensor

from sau.errors import DataError, SparsityError
from sau.mask import Mask, pack, unpack
from sau.models.batches import Batch, Encoded, by_length, collate
from sau.models.layers import Matrix, observing, prunable, real_of
from sau.models.ranks import ranks_of
from sau.pruners.base import Pruner, as_mask

BATCH = 2

NOT_FINITE = "its inputs on the calibration rows, or their squares, are not finite"

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h

_OWN_PAGES = 4 << 20
"""Bytes: clearing fresh pages costs time, which shows where smaller tensors get them."""


class LayerwisePruner(Pruner):
    """Prunes layer by layer, each on the inputs that the already pruned layers give it.

    One forward pass in all: it halts before each linear until that linear is pruned, and then goes on with what is
    left of it. The usual way runs each block twice, dense for the statistics of all its linears and pruned for the
    next block's inputs: twice the work, and the later linears of a block see inputs they will never have again.
    Memory holds the activations and the statistic around one linear, never those of the whole model.

    Of several processes that each have the whole model (`sau.models.ranks`) each runs every so-manieth batch; the
    statistic is summed over them before each linear, and all prune it alike.
    """

    @abstractmethod
    def statistic(self, inputs_NI: Iterable[Tensor]) -> Tensor:
        """What pruning has to know of a linear's inputs, which come in batches, padding excluded: a sum over tokens."""

    def ready(self, statistic: Tensor) -> Tensor:
        """The statistic of all tokens as `prune_layer` takes it; may be overwritten."""
        return statistic

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
        matrices, ranks = dict(prunable(model)), ranks_of(model)
        packed: dict[str, np.ndarray] = {}  # an eighth of the mask, as long as activations need the room
        with contextlib.closing(halting_before(matrices, model, calibration)) as halts:
            for name, inputs in halts:
                weight_OI = matrices[name].weight
                with _naming(name):
                    if inputs:
                        own = self.statistic(_real_tokens(x, keep) for x, keep in inputs)
                        statistic = self.ready(ranks.total(own))
                        del own
                        if not statistic.isfinite().all():
                            raise SparsityError(NOT_FINITE)
                    del inputs  # or they would outlive their layer
                    kept_OI = self.prune_layer(weight_OI, statistic, structure=structure, sparsity=sparsity)
                packed[matrices[name].name] = pack(kept_OI)
                if progress:
                    progress(len(packed), len(matrices), {})
        if unseen := [name for name, matrix in matrices.items() if matrix.name not in packed]:
            raise SparsityError(
                f"{unseen[0]}: saw no calibration token ({len(unseen)} of {len(matrices)} matrices); experts want more "
                "calibration rows, pruner magnitude wants none"
            )
        return as_mask((m, unpack(packed[m.name], tuple(m.weight.shape))) for m in matrices.values())


def halting_before(
    linears: Mapping[str, Matrix], model: Any, calibration: list[Encoded]
) -> Generator[tuple[str, list[tuple[Tensor, Tensor]]]]:
    """Run the model on all calibration batches side by side, and halt before every linear.

    Each batch's forward pass is a coroutine (a greenlet: the model's own code cannot be written with `await`). All
    run up to their next linear; of the linears they stand before, the first in the model's order is yielded, and
    those batches go on when the next one is asked for. One goes ahead: while all stand before one linear and it comes
    to others that read the very same tensor (key and value after query; up after gate), those are yielded too, and
    the rest need not halt there. The pass ends before the output head.
    Several processes have a part of the batches each, and halt before the same linears.

    Yields:
        (name, [(inputs [B, T, I] or [N, I], bool of which are no padding) of each batch that stands before it]), each
        name once; an empty list where they are the very inputs that were yielded last, and where none of this
        process's batches stands there, one of no tokens.

    Raises:
        SparsityError: a linear is used again after its turn, while others still wait for theirs; or its inputs are
            not one for each token.
    """
    device, ranks = next(model.parameters()).device, ranks_of(model)
    dealt = [indices for indices, counts in ranks.deal(by_length(calibration, BATCH)) if counts]
    batches = [collate([calibration[i] for i in indices]).to(device) for indices in dealt]
    keeps_BT = [batch.attention_mask_BT.bool() for batch in batches]
    turn = {name: number for number, name in enumerate(linears)}
    halted: dict[int, tuple[str, Tensor, Tensor | None]] = {}
    read_last: weakref.ref[Tensor]  # by the batch that is running
    main = greenlet.getcurrent()

    def halt(name: str, inputs: Tensor, tokens: Tensor | None) -> None:
        if name in turn:
            main.switch((name, inputs, tokens))
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

    def next_alike(here: list[int]) -> str | None:
        """Run the first batch to its next halt: the linear there, where all batches of all processes stand before it
        with the inputs that they stood before the last one with."""
        is_same = bool(here) and go_on(here[0])
        own = halted[here[0]][0] if is_same and len(here) == len(batches) else None
        found = {*ranks.merged({ranks.rank: own} if batches else {}).values()}
        return found.pop() if len(found) == 1 else None

    passes = [greenlet.greenlet(forward) for _ in batches]
    with observing(linears, halt), _ending(passes), returning_freed_memory() as give_back:
        for n, batch in enumerate(batches):
            if at := passes[n].switch(batch):
                halted[n] = at
            del at
        while turn:
            give_back()
            stands = ranks.merged({(ranks.rank, n): name for n, (name, *_) in halted.items()})
            if not stands:
                break
            first = min(stands.values(), key=turn.__getitem__)
            here = sorted(n for n, (name, *_) in halted.items() if name == first)
            with _naming(first):
                seen = [(x, real_of(x, keeps_BT[n], tokens)) for n in here for _, x, tokens in [halted[n]]]
            weight_OI = linears[first].weight
            yield first, seen or [(weight_OI.new_zeros(0, weight_OI.shape[1]), torch.ones(0, dtype=torch.bool))]
            del seen
            del turn[first]
            while turn and (name := next_alike(here)):
                yield name, []
                del turn[name]
            for n in here[1:] if turn else ():
                go_on(n)


@contextlib.contextmanager
def _ending(passes: list[greenlet.greenlet]) -> Iterator[None]:
    """On leaving, passes that halt are ended here: later they would leave what they stand in, such as a `no_grad`, to
    whatever then runs."""
    try:
        yield
    finally:
        for unfinished in passes:
            unfinished.throw()


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


def _real_tokens(inputs: Tensor, keep: Tensor) -> Tensor:
    """[N, I] in float32, padding excluded; a view where there is none."""
    return (inputs.reshape(-1, inputs.shape[-1]) if keep.all() else inputs[keep]).float()


@contextlib.contextmanager
def _naming(matrix: str) -> Iterator[None]:
    """Say in a SparsityError which matrix it was."""
    try:
        yield
    except SparsityError as error:
        raise SparsityError(f"{matrix}: {error}") from None
