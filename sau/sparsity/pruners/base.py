"""What pruners share: comparing scores within a row or group, and walking a model block by block.

Shape suffixes: O output features, I input features, N calibration tokens, B sequences, T tokens, D hidden.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sau.errors import DataError, SparsityError
from sau.registry import Component
from sau.sparsity.mask import Mask, parse_structure, prunable
from sau.text import Encoded, by_length, collate

CALIBRATION_BATCH = 8


class Pruner(Component, ABC):
    """Decides which weights survive."""

    @abstractmethod
    def prune(
        self,
        model: Any,
        calibration: list[Encoded],
        *,
        structure: str,
        sparsity: float,
        progress: Callable[[int, int, dict[str, float]], None] | None = None,
    ) -> Mask:
        """Zero weights in place (+0.0), perhaps update the survivors, and return the mask.

        Args:
            model: any causal LM whose prunable linears lie in one list of decoder blocks.
            calibration: sequences for methods that look at layer inputs.
            structure: "unstructured" (compared within each output row) or "n:m".
            sparsity: share of weights to prune, rounded to whole weights per row.
            progress: called with (done, total, {}).
        """


class LayerwisePruner(Pruner):
    """Prunes block by block, each on the inputs that the already pruned blocks give it.

    Holds the activations of one block and the input statistics of its linears, never those of the whole model.
    """

    @abstractmethod
    def accumulate(self, total: Tensor | None, inputs_NI: Tensor) -> Tensor:
        """Add one batch of a linear's inputs (padding excluded) to its statistic; None at first."""

    @abstractmethod
    def prune_layer(self, weight_OI: Tensor, total: Tensor, *, structure: str, sparsity: float) -> Tensor:
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
        prefix, blocks = decoder_blocks(model)
        model.eval()
        keeps_BT, hidden_BTD, arguments = _block_inputs(model, blocks, calibration)
        mask: Mask = {}
        for number, block in enumerate(blocks):
            linears = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}
            totals: dict[str, Tensor] = {}
            for keep_BT, hidden, (args, kwargs) in zip(keeps_BT, hidden_BTD, arguments[number], strict=True):
                with observing(linears, partial(self._add, totals, keep_BT)):
                    block(hidden, *args, **kwargs)
            for name, linear in linears.items():
                full_name = f"{prefix}.{number}.{name}.weight"
                if name not in totals:
                    raise SparsityError(f"{full_name}: saw no calibration token")
                mask[full_name] = self.prune_layer(
                    linear.weight.data, totals.pop(name), structure=structure, sparsity=sparsity
                )
            for i, (args, kwargs) in enumerate(arguments[number]):
                hidden_BTD[i] = _first(block(hidden_BTD[i], *args, **kwargs))
            if progress:
                progress(number + 1, len(blocks), {})
        return mask

    def _add(self, totals: dict[str, Tensor], keep_BT: Tensor, name: str, inputs_BTI: Tensor) -> None:
        if inputs_BTI.shape[:2] != keep_BT.shape:
            raise SparsityError(f"{name}: inputs of shape {tuple(inputs_BTI.shape)}, [B, T, I] is needed")
        totals[name] = self.accumulate(totals.get(name), inputs_BTI[keep_BT].float())


def decoder_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """(name, list) of the decoder blocks: the outermost ModuleList that holds every prunable linear.

    Raises:
        SparsityError: there is none.
    """
    linears = [name for name, _ in prunable(model)]
    for name, module in model.named_modules():
        if linears and isinstance(module, nn.ModuleList) and all(x.startswith(f"{name}.") for x in linears):
            return name, module
    raise SparsityError(f"{type(model).__name__}: no list of decoder blocks holds all {len(linears)} prunable linears")


def keep_highest(score_OI: Tensor, *, structure: str, sparsity: float) -> Tensor:
    """kept_OI: the highest scores of each output row, or n of each group of m inputs; of equals the later stays.

    Unstructured, round(I * sparsity) weights go from each row: truncating would miss the target by up to one.

    Raises:
        SparsityError: an unknown structure, or a row that does not divide into groups of m.
    """
    pattern = parse_structure(structure)
    num_rows, num_inputs = score_OI.shape
    if pattern is None:
        group, num_pruned = num_inputs, round(num_inputs * sparsity)
    else:
        group, num_pruned = pattern[1], pattern[1] - pattern[0]
        if num_inputs % group:
            raise SparsityError(f"{num_inputs} inputs are no multiple of {group}, structure {structure}")
    grouped = score_OI.reshape(-1, group)
    pruned = grouped.argsort(dim=1, stable=True)[:, :num_pruned]
    return torch.ones_like(grouped, dtype=torch.bool).scatter_(1, pruned, False).view(num_rows, num_inputs)


# -- running a model block by block ---------------------------------------------------------------


def _block_inputs(
    model: Any, blocks: nn.ModuleList, calibration: list[Encoded]
) -> tuple[list[Tensor], list[Tensor], list[list[tuple[tuple, dict]]]]:
    """Per batch the real tokens [B, T] and the first block's input [B, T, D]; per block and batch its other arguments.

    One forward pass of the whole model: blocks may differ in their masks and positions (sliding attention).
    """
    device = next(model.parameters()).device
    keeps_BT: list[Tensor] = []
    hidden_BTD: list[Tensor] = []
    arguments: list[list[tuple[tuple, dict]]] = [[] for _ in blocks]

    def record(number: int, _block: nn.Module, args: tuple, kwargs: dict) -> None:
        if number == 0:
            hidden_BTD.append(args[0])
        arguments[number].append((args[1:], kwargs))

    hooks = [b.register_forward_pre_hook(partial(record, n), with_kwargs=True) for n, b in enumerate(blocks)]
    try:
        for indices in by_length(calibration, CALIBRATION_BATCH):
            batch = collate([calibration[i] for i in indices]).to(device)
            keeps_BT.append(batch.attention_mask_BT.bool())
            model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return keeps_BT, hidden_BTD, arguments


@contextlib.contextmanager
def observing(linears: Mapping[str, nn.Module], observe: Callable[[str, Tensor], None]) -> Iterator[None]:
    """While open, `observe(name, inputs_BTI)` sees the inputs of each linear."""

    def hook(name: str, _module: nn.Module, args: tuple) -> None:
        observe(name, args[0])

    hooks = [linear.register_forward_pre_hook(partial(hook, name)) for name, linear in linears.items()]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
