"""What unlearning will hold in memory, told from a model's config before a byte of it is loaded.

Weights, gradients, moments and the like are counted from the shapes that the config makes; what a batch leaves for the
backward pass is seen in a forward pass on the meta device, where nothing is computed and nothing stored.
"""

import contextlib
import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from sau.models.door import plan_for
from sau.models.language_model import quiet
from sau.models.layers import decoder_blocks, prunable
from sau.training.eight_bit import BLOCK
from sau.unlearn.redistribution.least_squares import InputAware
from sau.unlearn.step import UnlearnParams

PROCESS_BYTES = 550 * 2**20
"""Python with its libraries, measured."""

_FLOAT32 = 8
_MOMENTS = {"float32": _FLOAT32, "8bit": 2 * (1 + 4 / BLOCK), "none": 0}
"""Bytes of optimizer state per weight that moves: two numbers."""

_ANSWER_SHARE = 0.6
"""Of a row's tokens, those whose logits are wanted."""


@dataclass(frozen=True)
class Case:
    """What a plan is made for.

    Attributes:
        params: of unlearning.
        sparsity: of the masked matrices, in [0, 1].
        itemsize: bytes per number of weights and gradients: 4 for float32, 2 for bfloat16.
        has_base: whether the model it was trained from is there.
        row_tokens: of a row, prompt and answer.
        autocast, micro_batch, gradient_checkpointing: see `sau.models.placement`.
    """

    params: UnlearnParams
    sparsity: float = 0.5
    itemsize: int = 4
    has_base: bool = True
    row_tokens: int = 64
    autocast: bool = False
    micro_batch: int | None = None
    gradient_checkpointing: bool = False

    def activation_bytes(self, shell: Any, batch_size: int) -> int:
        """See `activation_bytes`, of as much of a batch as goes through the model at once."""
        rows = math.ceil(batch_size / self.params.processes)
        rows = min(rows, self.micro_batch or rows)
        return activation_bytes(shell, rows, self.row_tokens, self.itemsize, checkpoints=self.gradient_checkpointing)


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes at the peak, by what they are for; `phase` is where that is. Of several processes, those of each.

    Attributes:
        parts: in order of what stays longest.
        num_parameters: of the model.
    """

    parts: dict[str, int]
    phase: str
    num_parameters: int = field(default=0)

    @property
    def peak(self) -> int:
        return sum(self.parts.values())

    @property
    def words(self) -> str:
        """In a line."""
        shown = ", ".join(f"{name} {gigabytes(size)}" for name, size in self.parts.items() if size)
        count = self.num_parameters
        size = f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.1f}M"
        return f"{size} parameters, {gigabytes(self.peak)} while {self.phase}: {shown}"


def gigabytes(size: float) -> str:
    """In words, GB of 10^9 bytes."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e9:.2f} GB"


def shell_of(config: Any) -> Any:
    """A model of a config on the meta device: names and shapes, and no bytes."""
    with torch.device("meta"), no_init_weights(), quiet():
        model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    model.tie_weights()
    return model.eval()


def plan_memory(shell: Any, case: Case) -> MemoryPlan:
    """The peak of unlearning with these parameters on the device that the model is on.

    Two phases are compared: adapting a copy of the base model, where one is given and wanted, and the steps. Several
    processes divide what has rows, and each gathers a decoder block at a time, with its gradient, and what is no block.

    Args:
        shell: see `shell_of`.
    """
    sizes, params, item = plan_for(shell), case.params, case.itemsize
    survivors = round(sizes.num_prunable * (1 - case.sparsity))
    others = sizes.num_vectors + (0 if params.freeze_uncovered else sizes.num_uncovered)
    others += 0 if params.freeze_embeddings else sizes.num_embedding
    adapts = params.adapt if case.has_base else None
    parts = {
        "Python": PROCESS_BYTES,
        "weights": sizes.num_parameters * item,
        "weights in bfloat16, for products": sizes.num_parameters * 2 * case.autocast,
        "mask": sizes.num_prunable,
        "checkpoint's file": (survivors + sizes.num_parameters - sizes.num_prunable) * item + sizes.num_prunable // 8,
        "base model": sizes.num_parameters * item * (int(case.has_base) + (adapts is not None)),
    }
    steps = {
        "gradients": (sizes.num_prunable + others) * item,
        "survivors' optimizer state": round((survivors + others) * _MOMENTS[params.optimizer_state]),
        "best state so far": (sizes.num_prunable + others) * item if params.stop else 0,
        "redistribution": _redistribution(shell, params, survivors, item),
        "activations": case.activation_bytes(shell, params.batch_size),
    }
    gathered = _gathered(shell, item) if params.processes > 1 else {}
    phases = [MemoryPlan(parts | steps, "unlearning", sizes.num_parameters)]
    if adapts:
        moving = sizes.num_parameters - (sizes.num_embedding if adapts.freeze_embeddings else 0)
        kept = case.activation_bytes(shell, adapts.batch_size)
        changes = math.ceil(moving * item / params.processes)
        together = case.micro_batch is not None and case.micro_batch < adapts.batch_size
        adapting = {
            "optimizer state": moving * _FLOAT32,
            # as one goes the other comes, but where gradients of an earlier part of the batch are there already
            "activations, then gradients": kept + changes if together else max(kept, changes),
        }
        phases.append(MemoryPlan(parts | adapting, "the base model is adapted", sizes.num_parameters))
    return max((_divided(plan, params.processes, gathered) for plan in phases), key=lambda plan: plan.peak)


_EACH = {"Python", "weights in bfloat16, for products", "redistribution", "activations", "activations, then gradients"}
"""What is counted for each of several processes already, or each has all of."""


def _divided(plan: MemoryPlan, processes: int, gathered: dict[str, int]) -> MemoryPlan:
    """A plan for each of several processes."""
    if processes == 1:
        return plan
    parts = {
        name: size if name in _EACH else math.ceil(size / processes)
        for name, size in plan.parts.items()
        if name != "checkpoint's file"
    }
    return replace(plan, parts=parts | gathered, phase=f"{plan.phase}, in each of {processes} processes")


def _gathered(shell: Any, item: int) -> dict[str, int]:
    """What is in whole in each process during a pass: what is no decoder block, and of those one and the next."""
    sizes = [sum(parameter.numel() for parameter in block.parameters()) for block in decoder_blocks(shell)[1]]
    others = sum(parameter.numel() for parameter in shell.parameters()) - sum(sizes)
    return {"gathered for a pass, with gradients": 2 * (others + 2 * max(sizes)) * item}


_LIGHTER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "unlearn.adapt=null": ({"adapt": None}, {}),
    "unlearn.redistribution=none": ({"redistribution": "none"}, {}),
    "model.micro_batch=1": ({}, {"micro_batch": 1}),
    "model.gradient_checkpointing=true": ({}, {"gradient_checkpointing": True}),
    "model.dtype=bfloat16": ({}, {"itemsize": 2}),
    "unlearn.optimizer_state=8bit": ({"optimizer_state": "8bit"}, {}),
    "no --base": ({}, {"has_base": False}),
    "unlearn.stop=null": ({"stop": None}, {}),
}
"""By setting, what it changes in `unlearn` and elsewhere in a case, in the order in which they are tried."""


def settings_that_fit(shell: Any, case: Case, available: int) -> list[str]:
    """Settings, each on top of the ones before, until the plan fits; empty where none of them helps that far."""
    changed = case
    found: list[str] = []
    for name, (update, placed) in _LIGHTER.items():
        if "optimizer_state" in update and case.params.optimizer_state == "none":
            continue
        fields = changed.params.model_dump(mode="json") | update
        changed = replace(changed, params=UnlearnParams.model_validate(fields), **placed)
        found.append(name)
        if plan_memory(shell, changed).peak <= available:
            return found
    return []


def _redistribution(shell: Any, params: UnlearnParams, survivors: int, item: int) -> int:
    """A square of each matrix's inputs where those are looked at, and the forget term's part where it is projected."""
    squares = sum(matrix.weight.shape[1] ** 2 for _, matrix in prunable(shell)) * item
    looks = isinstance(params.redistribution, InputAware)
    by_gradient = survivors * 4 * (params.redistribution.name == "importance")
    return squares * looks + by_gradient + survivors * item * params.redistribution.project


def activation_bytes(shell: Any, num_rows: int, row_tokens: int, item: int, *, checkpoints: bool = False) -> int:
    """What a forward pass over so many rows keeps for its backward pass, logits and their gradient included.

    With `checkpoints` that is each decoder block's inputs, and all of one block.

    Attention counts with its scores, which fused kernels do not keep: a little too much, for rows are short.

    A model that the meta device cannot run (routes that depend on numbers, scans) is counted as a Llama of its size.
    """
    num_answer = max(round(row_tokens * _ANSWER_SHARE), 1)
    with contextlib.suppress(Exception):
        return _kept(shell, num_rows, row_tokens, num_answer, checkpoints) * item // 4
    config = shell.config.get_text_config()
    width, layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or 4 * width
    block, logits = row_tokens * (14 * width + 5 * inner), 2 * num_answer * config.vocab_size
    blocks = block + layers * row_tokens * width if checkpoints else layers * block
    return num_rows * (blocks + logits) * item


def _kept(shell: Any, num_rows: int, row_tokens: int, num_answer: int, checkpoints: bool) -> int:
    """Bytes in float32."""
    own = {parameter.untyped_storage()._cdata for parameter in shell.parameters()}
    seen: dict[int, Any] = {}
    within: list[set[int]] = []  # of each decoder block, what was seen there first
    is_in_block = False

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own and storage._cdata not in seen:
            seen[storage._cdata] = storage
            if is_in_block:
                within[-1].add(storage._cdata)
        return tensor

    def enter(*_: Any) -> None:
        nonlocal is_in_block
        is_in_block = True
        within.append(set())

    def leave(*_: Any) -> None:
        nonlocal is_in_block
        is_in_block = False

    def select(_head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (args[0][:, :num_answer],)

    hooks = [shell.get_output_embeddings().register_forward_pre_hook(select)]
    for block in decoder_blocks(shell)[1] if checkpoints else ():
        hooks += [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            ids = torch.zeros((num_rows, row_tokens), dtype=torch.long, device="meta")
            logits = shell(input_ids=ids, use_cache=False).logits.flatten(0, 1).float()
            targets = torch.zeros(len(logits), dtype=torch.long, device="meta")
            torch.nn.functional.cross_entropy(logits, targets)
    finally:
        for hook in hooks:
            hook.remove()
    sizes = {key: storage.nbytes() for key, storage in seen.items()}
    blocks = [sum(sizes[key] for key in keys) for keys in within]
    inputs = len(blocks) * num_rows * row_tokens * shell.config.get_text_config().hidden_size * 4
    return sum(sizes.values()) - sum(blocks) + inputs + max(blocks, default=0) + logits.numel() * 4
