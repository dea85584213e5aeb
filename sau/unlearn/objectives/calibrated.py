"""Calibrated forgetting: bring forget rows to where rows the model never saw are, and no further. Our own.

Losses that push a row's likelihood down have no floor near the right place: where to stop decides everything, and
weights that are pruned afterwards move the stopping point. This one has its minimum at the estimate of
`sau.unlearn.calibration`, so that training converges to it.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sau.models.batches import Encoded, by_length, collate
from sau.models.outputs import Outputs
from sau.models.ranks import ranks_of
from sau.models.scoring import logits_of, targets_of, token_logps
from sau.unlearn.calibration import Calibration
from sau.unlearn.objectives.base import Objective, Setting


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


def calibrated_loss(logp_N: Tensor, target_N: Tensor, delta: float) -> Tensor:
    """Huber(log p - target) [N]: quadratic within `delta` nats, so that no single token pulls without bound."""
    return F.huber_loss(logp_N, target_N, delta=delta, reduction="none")


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


@dataclass
class _State:
    calibration: Calibration
    others: list[Said]
    kept: list[Said]
    num_steps: int = 0


class Calibrated(Objective):
    """row_weight * Huber(row's mean log p - its goal) + Huber(token's log p - its goal) + KL(goal || model).

    With no base model there is only the first. Tokens alone would leave a bias: their goals are conditional means, so
    matching them token by token need not bring the row's mean, which is what tells members from others, to its place.
    The true token's likelihood alone would leave what it is compared with to chance: the other answers that the model
    would give. They are the base model's own, which makes the true one one among them (`decoy_rank`). Every `refresh`
    steps the goals follow the model: forgetting also moves what it makes of people it never saw.

    Rows to keep stay by their likelihood, or, with retain `kl`, by KL(model before || model) (KL minimization, Maini et
    al. 2024, arXiv 2401.06121) over the same K + 2 outcomes. The former trains them further in, for which people whom
    unlearning is not shown pay on a real model; the latter wants a larger weight (LOG.md).
    """

    name: Literal["calibrated"] = "calibrated"
    settles: ClassVar[bool] = True

    row_weight: float = Field(3.0, ge=0, le=1000)
    delta: float = Field(1.0, gt=0, le=100)
    num_others: int = Field(64, ge=1, le=4096)
    refresh: int = Field(8, ge=1, le=10_000)
    retain: Literal["nll", "kl"] = "nll"

    def start(self, setting: Setting) -> _State:
        base = setting.base
        return _State(
            calibration=setting.calibration,
            others=said(base.model, setting.forget, self.num_others) if base else [],
            kept=said(setting.lm.model, setting.retain, self.num_others) if self.retain == "kl" else [],
        )

    def after_step(self, state: _State) -> None:
        state.num_steps += 1
        if state.num_steps % self.refresh == 0:
            state.calibration.fit()

    def forget_loss(self, forget: Outputs, state: _State) -> Tensor:
        rows = forget.rows_B.tolist()
        logp_N = forget.logp_N
        target_N = torch.cat([state.calibration.targets[i] for i in rows]).to(logp_N.device)
        gap_B = forget.sum_per_record(logp_N - target_N) / forget.num_tokens_B
        loss = self.row_weight * calibrated_loss(gap_B, torch.zeros_like(gap_B), self.delta).mean()
        if not state.others:
            return loss
        others = [state.others[i] for i in rows]
        per_token_N = calibrated_loss(logp_N, target_N, self.delta) + _divergence(forget, target_N, others)
        return loss + forget.mean(per_token_N)

    def retain_loss(self, retain: Outputs, state: _State) -> Tensor:
        if not state.kept:
            return retain.mean_nll
        kept = [state.kept[i] for i in retain.rows_B.tolist()]
        before_N = torch.cat([row.logp_N for row in kept]).to(retain.logp_N.device)
        return retain.mean(_divergence(retain, before_N, kept))


def _divergence(outputs: Outputs, target_N: Tensor, others: list[Said]) -> Tensor:
    """`divergence` [N] of a batch with these targets, and per row what else should be said."""
    logp_N = outputs.logp_N
    ids_NK, probs_NK = (
        torch.cat(parts).to(logp_N.device) for parts in ([o.ids_NK for o in others], [o.probs_NK for o in others])
    )
    # log p of any token is its logit less what the answer's token says of the normalisation: no pass over V.
    norm_N1 = (outputs.logits_NV.gather(1, outputs.targets_N[:, None])[:, 0] - logp_N)[:, None]
    return divergence(logp_N, target_N, outputs.logits_NV.gather(1, ids_NK) - norm_N1, probs_NK)


@torch.no_grad()
def said(model: Any, sequences: list[Encoded], number: int) -> list[Said]:
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
