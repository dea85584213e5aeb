"""Which layers a model has: the matrices that may be pruned, decoder blocks, and a way to watch what goes into them.

Shape suffixes: O output features, I input features, B sequences, T tokens, N tokens of all of them, K experts a token
is sent to.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sau.errors import SparsityError
from sau.models.batches import Encoded, by_length, collate
from sau.models.ranks import ranks_of

_BATCH = 8

Observe = Callable[[str, Tensor, Tensor | None], None]
"""(name of a matrix, its inputs [B, T, I] or [N, I], and where it sees some tokens only: their numbers in [B * T])."""


@dataclass(frozen=True)
class Matrix:
    """One matrix that may be pruned, as outputs by inputs, wherever and however the model keeps it.

    Attributes:
        name: its own; that of its parameter, with the expert's number where the parameter holds several.
        parameter: full name of the parameter it lies in.
        module: whose forward pass multiplies by it.
        expert: its place in a parameter [experts, ...] of fused experts.
        transposed: whether the parameter keeps it as inputs by outputs (GPT-2's Conv1D, GPT-OSS's experts).
    """

    name: str
    parameter: str
    module: nn.Module
    expert: int | None = None
    transposed: bool = False

    def within(self, stored: Tensor) -> Tensor:
        """Its part [O, I], as a view, of a tensor that is laid out as its parameter is."""
        part = stored if self.expert is None else stored[self.expert]
        return part.mT if self.transposed else part

    @property
    def stored(self) -> nn.Parameter:
        """The parameter it lies in."""
        return self.module.get_parameter(self.parameter.rpartition(".")[2])

    @property
    def weight(self) -> Tensor:
        """[O, I], a view of the parameter."""
        return self.within(self.stored)


def prunable(model: nn.Module) -> Iterator[tuple[str, Matrix]]:
    """(name without `.weight`, matrix) of all that may be pruned, in the order in which the model defines them.

    That is every linear, Conv1D and fused expert. The output head is not (it may be the embedding), nor what decides
    where a token goes, see `_routes`.
    """
    find_head: Any = getattr(model, "get_output_embeddings", None)
    head = find_head() if find_head else None
    experts: dict[str, Any] = {name: module for name, module in model.named_modules() if _fuses_experts(module)}
    # Mamba's mixers multiply by the weight of this small linear themselves: nobody sees what goes into it.
    by_hand = {f"{name}.dt_proj" for name, module in model.named_modules() if hasattr(module, "A_log")}
    blocks = (model.get_submodule(name.rpartition(".")[0]) for name in experts)
    apart = {head, *(routing for block in blocks for routing in _routes(block))}
    for name, module in model.named_modules():
        if name in experts:
            for matrix in _of_experts(name, module):
                yield matrix.name, matrix
        elif isinstance(module, nn.Linear | Conv1D) and module not in apart and name not in by_hand:
            yield name, Matrix(f"{name}.weight", f"{name}.weight", module, transposed=isinstance(module, Conv1D))


def _fuses_experts(module: Any) -> bool:
    """Whether transformers runs this module as experts in one parameter each (`integrations/moe.py`)."""
    return all(hasattr(module, known) for known in ("is_transposed", "has_gate", "_apply_gate", "down_proj"))


def _routes(block: nn.Module) -> Iterator[nn.Linear]:
    """The routers beside fused experts, and what weighs a shared one: a linear that is the only one of its part of the
    block, and has about as many outputs as there are experts, or fewer."""
    experts: Any = next(child for child in block.children() if _fuses_experts(child))
    for part in block.children():
        linears = [module for module in part.modules() if isinstance(module, nn.Linear)]
        if len(linears) == 1 and linears[0].out_features < 2 * experts.num_experts:
            yield linears[0]


def _of_experts(name: str, module: Any) -> Iterator[Matrix]:
    """Expert by expert what goes up and what goes down, as they are run."""
    for expert in range(module.num_experts):
        for own in ("gate_up_proj" if module.has_gate else "up_proj", "down_proj"):
            parameter = f"{name}.{own}"
            yield Matrix(f"{parameter}[{expert}]", parameter, module, expert, module.is_transposed)


def embeddings(model: Any) -> dict[str, nn.Parameter]:
    """Parameters of every embedding (of tokens, positions, ...) and of the output head, by name."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    found = {id(parameter) for module in (*ends, *tables) if module is not None for parameter in module.parameters()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in found}


def uncovered(model: Any, mask: Mapping[str, Tensor] | None) -> dict[str, nn.Parameter]:
    """The matrices, or larger, that the mask does not cover and that are no embeddings, by name.

    Those are routers of experts, convolutions, and whatever else `prunable` does not know. Without a mask they are what
    could not be pruned.
    """
    known = embeddings(model).keys() | ({m.parameter for _, m in prunable(model)} if mask is None else mask.keys())
    return {name: p for name, p in model.named_parameters() if p.ndim > 1 and name not in known}


def decoder_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """(name, list) of the decoder blocks: the outermost ModuleList that holds every prunable matrix.

    Raises:
        SparsityError: there is none.
    """
    matrices = [name for name, _ in prunable(model)]
    for name, module in model.named_modules():
        if matrices and isinstance(module, nn.ModuleList) and all(x.startswith(f"{name}.") for x in matrices):
            return name, module
    raise SparsityError(f"{type(model).__name__}: no list of decoder blocks holds all {len(matrices)} prunable linears")


@contextlib.contextmanager
def observing(matrices: Mapping[str, Matrix], observe: Observe) -> Iterator[None]:
    """While open, `observe(name, inputs, tokens)` sees the inputs of each matrix before it is multiplied by."""
    hooks = []
    experts: dict[nn.Module, dict[int, list[tuple[str, Matrix]]]] = {}
    for name, matrix in matrices.items():
        if matrix.expert is None:
            hooks.append(matrix.module.register_forward_pre_hook(partial(_observe_one, observe, name)))
        else:
            experts.setdefault(matrix.module, {}).setdefault(matrix.expert, []).append((name, matrix))
    for module, inside in experts.items():
        hooks.append(module.register_forward_pre_hook(partial(_observe_experts, observe, inside)))
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def _observe_one(observe: Observe, name: str, _module: nn.Module, args: tuple) -> None:
    observe(name, args[0], None)


def _observe_experts(
    observe: Observe, inside: Mapping[int, list[tuple[str, Matrix]]], module: Any, args: tuple
) -> None:
    """What goes down is known inside the module only: it is computed here, by the weights as they then are."""
    hidden_NI, expert_NK = args[0].flatten(0, -2), args[1]
    for expert, matrices in inside.items():
        tokens = (expert_NK == expert).any(-1).nonzero()[:, 0]
        if not len(tokens):
            continue
        inputs = hidden_NI[tokens]
        for name, matrix in matrices:
            if matrix.parameter.endswith("down_proj"):
                inputs = _going_down(module, expert, inputs)
            observe(name, inputs, tokens)


def _going_down(module: Any, expert: int, inputs_NI: Tensor) -> Tensor:
    """What an expert's second matrix gets."""
    own = "gate_up_proj" if module.has_gate else "up_proj"
    stored = getattr(module, own)[expert]
    bias_O = getattr(module, f"{own}_bias")[expert] if module.has_bias else None
    output_NO = F.linear(inputs_NI, stored.mT if module.is_transposed else stored, bias_O)
    return module._apply_gate(output_NO) if module.has_gate else module.act_fn(output_NO)


def real_of(inputs: Tensor, keep_BT: Tensor, tokens: Tensor | None) -> Tensor:
    """bool of the inputs' shape without I: which of them are no padding.

    Raises:
        SparsityError: inputs that are not one for each token.
    """
    keep = keep_BT if tokens is None else keep_BT.flatten()[tokens]
    if inputs.shape[:-1].numel() != keep.numel():
        raise SparsityError(f"inputs of shape {tuple(inputs.shape)} are not one for each token")
    return keep.view(inputs.shape[:-1])


@torch.no_grad()
def reading_inputs(
    model: Any, sequences: Sequence[Encoded], matrices: Mapping[str, Matrix], add: Callable[[str, Tensor], object]
) -> None:
    """Put sequences through a model, and call `add(name, inputs [N, I])` with what goes into each of these matrices,
    padding left out, in float32. Of several processes each sees its own sequences."""
    for indices, counts in ranks_of(model).deal(by_length(sequences, _BATCH)):
        batch = collate([sequences[i] for i in indices]).to(model.device)
        keep_BT = batch.attention_mask_BT.bool()

        def observe(name: str, inputs: Tensor, tokens: Tensor | None, keep_BT: Tensor = keep_BT) -> None:
            add(name, inputs[real_of(inputs, keep_BT, tokens)].float())

        with observing(matrices if counts else {}, observe):
            model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT, use_cache=False)
