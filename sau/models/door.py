"""The door: what would be done with a model, found by trying it on a few tokens before anything takes long.

Shape suffixes: B sequences, T tokens, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sau.errors import ModelError, SparsityError
from sau.mask import Mask
from sau.models.dense import check_opens_again
from sau.models.language_model import LanguageModel
from sau.models.layers import embeddings, observing, prunable, real_of, uncovered
from sau.models.prompts import tokenize

MIN_SHARE = 0.5
"""Of all parameters but embeddings: a model less of which can be pruned is sparse in name only."""

_LENGTH, _SHORTER = 12, 7
"""Tokens of the two sequences that are tried."""

_TOLERANCE = 1e-3
"""Of the largest logit: many times what float32 rounds away, far less than another token changes."""


@dataclass(frozen=True)
class Plan:
    """What would be done with a model. Parameters are counted once where they are tied.

    Attributes:
        num_parameters: of the model.
        num_prunable: in matrices that get a mask; in unlearning their survivors move.
        num_embedding: in embeddings and output head, never pruned; they move with `freeze_embeddings` off.
        num_vectors: norms, biases and the like, never pruned; they move.
        uncovered: names of all other parameters (routers of experts, convolutions), never pruned; they move
            with `freeze_uncovered` off, and in training.
        num_uncovered: in those.
    """

    num_parameters: int
    num_prunable: int
    num_embedding: int
    num_vectors: int
    uncovered: tuple[str, ...]
    num_uncovered: int

    @property
    def share(self) -> float:
        """In [0, 1], of all parameters: what gets a mask."""
        return self.num_prunable / self.num_parameters


def check_model(lm: LanguageModel) -> Plan:
    """Try a model at the door: is enough of it prunable, does it run as a causal LM does, is all of it stored?

    Takes two short forward passes, no gradients and no copy of the weights.

    Raises:
        ModelError: what stands against it, and where.
    """
    model, kind = lm.model.eval(), type(lm.model).__name__
    if model.get_input_embeddings() is None or model.get_output_embeddings() is None:
        raise ModelError(f"{kind}: has no input embedding or no output head")
    if bad := [name for name, weight in model.named_parameters() if not weight.isfinite().all()]:
        raise ModelError(f"{kind}: {bad[0]} holds numbers that are not finite ({len(bad)} parameters do)")
    largest, num_known = max(tokenize(lm.tokenizer, ["a"])[0] + [lm.tokenizer.eos_token_id]), _num_tokens(model)
    if largest >= num_known:
        raise ModelError(f"{kind}: its tokenizer gives token {largest}, its embedding has {num_known}")
    plan = plan_for(model, lm.mask)
    if plan.num_prunable < MIN_SHARE * (plan.num_parameters - plan.num_embedding):
        raise ModelError(
            f"{kind}: only {plan.share:.0%} of its {plan.num_parameters:,} parameters can be pruned, "
            f"not {', '.join(plan.uncovered[:3])}"
        )
    _check_runs(model)
    try:
        check_opens_again(model)
    except ModelError as error:
        raise ModelError(f"{kind}: stored, it would not open again: {error}") from None
    return plan


def plan_for(model: Any, mask: Mask | None = None) -> Plan:
    """What would be done with a model, by its parameters alone; where it has a mask, that counts."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    pruned = {matrix.parameter for _, matrix in prunable(model)} if mask is None else mask.keys()
    tables, others = embeddings(model), uncovered(model, mask)
    return Plan(
        num_parameters=sum(sizes.values()),
        num_prunable=sum(sizes[name] for name in pruned),
        num_embedding=sum(sizes[name] for name in tables.keys() - pruned),
        num_vectors=sum(sizes[name] for name in sizes.keys() - pruned - tables.keys() - others.keys()),
        uncovered=tuple(others),
        num_uncovered=sum(sizes[name] for name in others),
    )


def _num_tokens(model: Any) -> int:
    return model.get_input_embeddings().weight.shape[0]


@torch.no_grad()
def _check_runs(model: Any) -> None:
    """Two sequences, the second padded: every matrix sees each token once, and no logit depends on padding or on what
    follows.

    An expert need not see any of so few tokens.

    Raises:
        ModelError: names the first matrix, or says what a logit depends on.
    """
    kind = type(model).__name__
    ids_BT = torch.arange(2 * _LENGTH, device=model.device).view(2, _LENGTH) % _num_tokens(model)
    keep_BT = torch.ones_like(ids_BT)
    keep_BT[1, _SHORTER:] = 0
    matrices, seen = dict(prunable(model)), set()

    def see(name: str, inputs: Tensor, tokens: Tensor | None) -> None:
        try:
            real_of(inputs, keep_BT.bool(), tokens)
        except SparsityError as error:
            raise ModelError(f"{kind}: {name}: {error}") from None
        if name in seen:
            raise ModelError(f"{kind}: {name} is used more than once in a pass")
        seen.add(name)

    try:
        with observing(matrices, see):
            together_BTV = model(input_ids=ids_BT, attention_mask=keep_BT, use_cache=False).logits
        short_BTV = model(
            input_ids=ids_BT[1:, :_SHORTER], attention_mask=keep_BT[1:, :_SHORTER], use_cache=False
        ).logits
        start_BTV = model(
            input_ids=ids_BT[:1, :_SHORTER], attention_mask=keep_BT[:1, :_SHORTER], use_cache=False
        ).logits
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError) as error:
        raise ModelError(f"{kind}: does not run on token ids alone: {type(error).__name__}: {error}") from None
    if unseen := [name for name, matrix in matrices.items() if matrix.expert is None and name not in seen]:
        raise ModelError(f"{kind}: {len(unseen)} matrices see no token, such as {unseen[0]}")
    for what, alone_BTV, row in (("padding", short_BTV, 1), ("tokens that follow", start_BTV, 0)):
        difference = (alone_BTV[0] - together_BTV[row, :_SHORTER]).abs().max()
        if not difference <= _TOLERANCE * alone_BTV.abs().max():
            raise ModelError(f"{kind}: what it says of a token depends on {what}")
