"""Which layers a model has: prunable linears, decoder blocks, and a way to watch what goes into them."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from sau.errors import SparsityError


def prunable(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """(name, module) of every linear that may be pruned: all but the output head (it may be the embedding)."""
    find_head: Any = getattr(model, "get_output_embeddings", None)
    head = find_head() if find_head else None
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module is not head:
            yield name, module


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
