"""A model's outputs at the answer tokens of a batch: what every objective is a function of.

Those of all sequences lie in a row: padding cannot enter a loss. Means are over the answer tokens of each record, then
over records, so that every record weighs the same.
Shape suffixes: B sequences, T tokens, N answer tokens of the batch, V vocabulary, D hidden.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sau.models.batches import Batch
from sau.models.layers import decoder_blocks
from sau.models.scoring import logits_in, passes, targets_of, token_logps


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
        share: in (0, 1], of a step's records; below 1 the others are other micro-batches.
    """

    rows_B: Tensor
    batch: Batch
    logits_NV: Tensor
    targets_N: Tensor
    sequence_N: Tensor
    block_output_ND: Tensor | None
    share: float = 1.0

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


def forward(
    model: Any, batch: Batch, rows_B: Tensor, *, hidden_block: int | None = None, share: float = 1.0
) -> Outputs:
    """Run `model` on a batch; the output of decoder block `hidden_block` is kept too where one is named."""
    hidden: list[Tensor] = []
    hook = None
    parts = passes(model, batch, packed=True)  # before there is a hook: it may try the model
    if hidden_block is not None:
        block = decoder_blocks(model)[1][hidden_block]
        hook = block.register_forward_hook(
            lambda _module, _args, output: hidden.append(output[0] if isinstance(output, tuple) else output)
        )
    try:
        logits_NV = logits_in(model, parts)
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
        block_output_ND=torch.cat([h_BTD[one.answer_BT] for h_BTD, one in zip(hidden, parts, strict=True)])
        if hidden
        else None,
        share=share,
    )
