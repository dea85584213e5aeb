"""The interface of an objective, and the model outputs that all of them share.

Outputs hold answer tokens only, those of all sequences of a batch in a row: padding cannot enter a loss.
Means are over the answer tokens of each record, then over records, so that every record weighs the same.
Shape suffixes: B sequences, N answer tokens of the batch, V vocabulary, D hidden.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from sau.data.records import Row
from sau.models import LanguageModel
from sau.registry import Component
from sau.sparsity.pruners.base import decoder_blocks
from sau.text import Batch, Encoded, answer_logps, collate, logits_in, passes, targets_of, token_logps
from sau.unlearn.calibration import Calibration


@dataclass(frozen=True)
class Outputs:
    """A model's outputs at the answer tokens of a batch.

    Attributes:
        rows_B: int64, each sequence's number in its set.
        batch: the token batch.
        logits_NV: next-token logits, float32.
        targets_N: the answer tokens.
        sequence_N: which of the B sequences each token belongs to.
        block_output_ND: `hidden_ND`, None unless it was asked for.
    """

    rows_B: Tensor
    batch: Batch
    logits_NV: Tensor
    targets_N: Tensor
    sequence_N: Tensor
    block_output_ND: Tensor | None

    @property
    def hidden_ND(self) -> Tensor:
        """Output of the decoder block that was asked for, at the positions that predict the answer."""
        assert self.block_output_ND is not None, "no block's output was asked for"
        return self.block_output_ND

    @cached_property
    def logp_N(self) -> Tensor:
        """log p of each answer token."""
        return token_logps(self.logits_NV, self.targets_N)

    @cached_property
    def num_tokens_B(self) -> Tensor:
        """Answer tokens per sequence."""
        return torch.bincount(self.sequence_N, minlength=len(self.rows_B))

    @cached_property
    def nll_B(self) -> Tensor:
        """Summed NLL of each answer."""
        return self.sum_per_record(-self.logp_N)

    @cached_property
    def mean_nll(self) -> Tensor:
        """Scalar NLL/n: per token, then over records."""
        return self.mean(-self.logp_N)

    def sum_per_record(self, values_N: Tensor) -> Tensor:
        """[B] sums over each sequence's answer tokens."""
        return values_N.new_zeros(len(self.rows_B)).index_add(0, self.sequence_N, values_N)

    def mean(self, values_N: Tensor) -> Tensor:
        """Scalar mean over each sequence's answer tokens, then over sequences."""
        return (self.sum_per_record(values_N) / self.num_tokens_B).mean()


def forward(model: Any, batch: Batch, rows_B: Tensor, *, hidden_block: int | None = None) -> Outputs:
    """Run `model` on a batch; the output of decoder block `hidden_block` is kept too where one is named."""
    hidden: list[Tensor] = []
    hook = None
    its_passes = passes(model, batch, packed=True)  # before there is a hook: it may try the model
    if hidden_block is not None:
        block = decoder_blocks(model)[1][hidden_block]
        hook = block.register_forward_hook(
            lambda _module, _args, output: hidden.append(output[0] if isinstance(output, tuple) else output)
        )
    try:
        logits_NV = logits_in(model, its_passes)
    finally:
        if hook:
            hook.remove()
    answer_BT = batch.answer_mask_BT
    return Outputs(
        rows_B=rows_B,
        batch=batch,
        logits_NV=logits_NV,
        targets_N=targets_of(batch),
        sequence_N=answer_BT.nonzero()[:, 0],
        block_output_ND=torch.cat([h_BTD[one.answer_BT] for h_BTD, one in zip(hidden, its_passes, strict=True)])
        if hidden
        else None,
    )


@dataclass(frozen=True)
class Setting:
    """What an objective or redistribution may look at before the first step.

    Attributes:
        lm: the model as it is before unlearning, and while it changes.
        forget_rows, forget, retain: the records to forget, and both sets as sequences.
        holdout: some of the rows the model was never trained on, for measuring only.
        base: the model before it was trained on any of this, where there is one.
    """

    lm: LanguageModel
    forget_rows: list[Row]
    forget: list[Encoded]
    retain: list[Encoded]
    holdout: list[Encoded]
    base: LanguageModel | None = None

    @cached_property
    def calibration(self) -> Calibration:
        """How likely each forget row would be to a model that never saw it."""
        return Calibration(self.lm, self.base, self.forget, self.holdout)

    def reference_nlls(self, sequences: Sequence[Encoded]) -> Tensor:
        """Summed NLL of every answer under the present weights, without gradient."""
        nlls = [-logp.sum() for logp in answer_logps(self.lm.model, sequences)]
        return torch.stack(nlls).to(self.lm.model.device)

    def frozen_model(self) -> Any:
        """A copy with the present weights, for objectives that need the reference's whole distribution.

        Costs the model's size once and a forward pass per step; storing logits would cost rows x tokens x vocabulary.
        """
        return copy.deepcopy(self.lm.model).requires_grad_(False).eval()

    def forward(self, sequences: Sequence[Encoded], rows_B: Tensor) -> Outputs:
        """The present model's outputs, with gradient, on sequences other than the step's own batches."""
        return forward(self.lm.model, collate(sequences).to(self.lm.model.device), rows_B)


class Objective(Component, ABC):
    """L = gamma * forget_loss + alpha * retain_loss; the loop owns weights, batches and steps.

    The config is frozen; whatever an objective has to remember (reference values, a dual variable) is the state
    that `start` returns and every other method is handed.
    """

    has_retain_term: ClassVar[bool] = True

    def start(self, setting: Setting) -> Any:
        """The state, made once before the first step. torch's generator is seeded here."""
        return None

    def trains(self, parameter: str, model: Any) -> bool:
        """Whether this parameter may move."""
        return True

    def hidden_block(self, model: Any) -> int | None:
        """The decoder block whose output `Outputs.hidden_ND` has to hold."""
        return None

    @abstractmethod
    def forget_loss(self, forget: Outputs, state: Any) -> Tensor:
        """Scalar loss on a batch of forget rows."""

    def retain_loss(self, retain: Outputs, state: Any) -> Tensor:
        """Scalar loss on a batch of retain rows: NLL/n unless the method says otherwise."""
        return retain.mean_nll

    def after_step(self, state: Any) -> None:
        """Called once per optimizer step."""
