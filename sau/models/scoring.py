"""From token batches to logits and answer log-probabilities.

Shape suffixes: B sequences, T tokens, N answer tokens of a batch, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sau.models.autocast import computing
from sau.models.batches import Batch, Encoded, by_length, collate
from sau.models.packing import forward_packed, packs
from sau.models.ranks import ranks_of


@dataclass(frozen=True)
class Pass:
    """What goes through a model at once.

    Attributes:
        run: gives the model's output; its batch may be one row of several sequences.
        answer_BT: bool, True where an output predicts an answer token; in order, those of the batch.
    """

    run: Callable[[Any], Any]
    answer_BT: Tensor


def passes(model: Any, batch: Batch, *, packed: bool = False) -> list[Pass]:
    """A batch as passes that have little or no padding in them; the last token, which nothing follows, is not read.

    Args:
        packed: all sequences in one row where the model allows it (`sau.models.packing`), else each of
            `batch.parts()`. For training on a CPU: of batches in order of length, as evaluation has them, little is
            padding.
    """
    lengths = (batch.attention_mask_BT.sum(1) - 1).tolist()
    if packed and min(lengths) < max(lengths) and packs(model):
        real_BT = batch.attention_mask_BT[:, 1:].bool()  # as many of each sequence as there are to be read
        ids_T = batch.input_ids_BT[:, :-1][real_BT]
        return [Pass(partial(forward_packed, input_ids_T=ids_T, lengths=lengths), batch.answer_mask_BT[real_BT][None])]
    # In step each process makes as many passes as the others: they gather the model's rows together.
    parts = [batch] if ranks_of(model).in_step else batch.parts()
    return [Pass(part.run, part.answer_mask_BT) for part in parts]


def logits_of(model: Any, batch: Batch, *, packed: bool = False) -> Tensor:
    """Next-token logits [N, V] in float32 at the answer tokens, sequence by sequence; `packed`: see `passes`."""
    return logits_in(model, passes(model, batch, packed=packed))


def logits_in(model: Any, some: Sequence[Pass]) -> Tensor:
    """`logits_of` for a batch whose passes are known already."""
    return torch.cat([_logits_in(model, one) for one in some])


def _logits_in(model: Any, one: Pass) -> Tensor:
    """`logits_in` of one pass.

    The hidden states are selected before the output head, whose product with the vocabulary is a large part of a
    small model's work and is wanted for the answer only; whatever the model does to logits after its head still
    happens.
    """

    def select(_head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (args[0][one.answer_BT][None],)

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        with computing(model):
            output = one.run(model)
    finally:
        hook.remove()
    return output.logits[0].float()


def targets_of(batch: Batch) -> Tensor:
    """The answer tokens [N], in the order of `logits_of`."""
    return batch.input_ids_BT[:, 1:][batch.answer_mask_BT]


def token_logps(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """log p [N] of each answer token."""
    # The fused kernel goes over [N, V] half as often as gather - logsumexp does, there and back.
    return -F.cross_entropy(logits_NV, targets_N, reduction="none")


@torch.no_grad()
def answer_logps(model, sequences: Sequence[Encoded], *, batch_size: int = 32) -> list[Tensor]:
    """Per sequence the log-probabilities of its answer tokens [n_i], in the order given, on the CPU."""
    device = next(model.parameters()).device

    def of_batch(indices: list[int]) -> tuple[Tensor, ...]:
        batch = collate([sequences[i] for i in indices]).to(device)
        logp_N = token_logps(logits_of(model, batch), targets_of(batch)).cpu()
        return logp_N.split(batch.answer_mask_BT.sum(1).tolist())

    was_training, batches = model.training, by_length(sequences, batch_size)
    model.eval()
    parts = ranks_of(model).each(batches, of_batch)
    model.train(was_training)
    found = {
        i: logp_N for indices, part in zip(batches, parts, strict=True) for i, logp_N in zip(indices, part, strict=True)
    }
    return [found[i] for i in range(len(sequences))]
