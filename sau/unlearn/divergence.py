"""How far a model is from what one said of rows: KL over the answer's token, the likeliest others, and any other.

What was said is taken down once, K numbers a token instead of a vocabulary, and no second model stays in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sau.models.batches import Encoded, by_length, collate
from sau.models.outputs import Outputs
from sau.models.ranks import ranks_of
from sau.models.scoring import logits_of, targets_of, token_logps

NUM_OTHERS = 64
"""Tokens taken down beside the answer's own, where nothing else is said."""


@dataclass(frozen=True)
class Said:
    """What a model says at each of N answer tokens: the answer's own, and `K` likeliest others.

    Attributes:
        logp_N: log p of the answer's token.
        ids_NK: the others, int64.
        probs_NK: their probabilities among all tokens but the answer's own; what they leave to 1 is all the rest's.
    """

    logp_N: Tensor
    ids_NK: Tensor
    probs_NK: Tensor


def divergence(logp_N: Tensor, target_N: Tensor, logp_NK: Tensor, others_NK: Tensor) -> Tensor:
    """KL(q || p) [N] over K + 2 outcomes: the answer's token, K others, any other.

    q gives the answer's token exp(target) and shares what is left among the others as `others_NK` says. Lumping the
    many unlikely tokens together makes it a lower bound of the divergence over the vocabulary.
    """
    left_N1 = -torch.expm1(target_N)[:, None]
    q = torch.cat([target_N.exp()[:, None], left_N1 * others_NK, left_N1 * (1 - others_NK.sum(1, keepdim=True))], 1)
    q = q.clamp_min(0.0)
    named = torch.cat([logp_N[:, None], logp_NK], 1)
    rest_N1 = (1 - named.exp().sum(1, keepdim=True)).clamp_min(torch.finfo(named.dtype).eps).log()
    return (torch.xlogy(q, q) - q * torch.cat([named, rest_N1], 1)).sum(1)


def divergence_from(outputs: Outputs, target_N: Tensor, others: list[Said]) -> Tensor:
    """`divergence` [N] of a batch with these targets, and per row what else should be said."""
    logp_N = outputs.logp_N
    ids_NK, probs_NK = (
        torch.cat(parts).to(logp_N.device) for parts in ([o.ids_NK for o in others], [o.probs_NK for o in others])
    )
    # log p of any token is its logit less what the answer's token says of the normalisation: no pass over V.
    norm_N1 = (outputs.logits_NV.gather(1, outputs.targets_N[:, None])[:, 0] - logp_N)[:, None]
    return divergence(logp_N, target_N, outputs.logits_NV.gather(1, ids_NK) - norm_N1, probs_NK)


def staying_loss(outputs: Outputs, before: Sequence[Said]) -> Tensor:
    """Mean divergence, over tokens, then over records, of a batch from what was `said` of the rows that it is of."""
    rows = [before[i] for i in outputs.rows_B.tolist()]
    before_N = torch.cat([row.logp_N for row in rows]).to(outputs.logp_N.device)
    return outputs.mean(divergence_from(outputs, before_N, rows))


@torch.no_grad()
def said(model: Any, sequences: Sequence[Encoded], number: int) -> list[Said]:
    """What a model says of each sequence's answer, with the `number` likeliest other tokens, on the CPU."""
    found: dict[int, Said] = {}
    was_training, ranks = model.training, ranks_of(model)
    model.eval()
    for indices, counts in ranks.deal(by_length(sequences, 8)):
        batch = collate([sequences[i] for i in indices]).to(model.device)
        logits_NV, target_N = logits_of(model, batch), targets_of(batch)
        logp_N = token_logps(logits_NV, target_N)
        others_NV = logits_NV.scatter(1, target_N[:, None], -torch.inf)
        top = others_NV.softmax(1).topk(min(number, others_NV.shape[1] - 1), dim=1)
        lengths = batch.answer_mask_BT.sum(1).tolist()
        if not counts:
            continue
        parts = (part.cpu().split(lengths) for part in (logp_N, top.indices, top.values))
        for i, *tensors in zip(indices, *parts, strict=True):
            found[i] = Said(*(tensor.clone() for tensor in tensors))  # a view would be sent with its whole batch
    model.train(was_training)
    found = ranks.merged(found)
    return [found[i] for i in range(len(sequences))]
