"""Calibrated forgetting: bring forget rows to where rows the model never saw are, and no further. Our own.

Losses that push a row's likelihood down have no floor near the right place: where to stop decides everything, and
weights that are pruned afterwards move the stopping point. This one has its minimum at the estimate of
`sau.unlearn.calibration`, so that training converges to it.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sau.models.batches import Encoded, by_length, collate
from sau.models.outputs import Outputs
from sau.models.scoring import logits_of, targets_of
from sau.unlearn.calibration import Calibration
from sau.unlearn.objectives.base import Objective, Setting


@dataclass(frozen=True)
class Others:
    """What the base model would say instead of each answer token: its `K` likeliest other tokens.

    Attributes:
        ids_NK: int64.
        probs_NK: their probabilities among all tokens but the answer's own; what they leave to 1 is all the rest's.
    """

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
    others: list[Others]
    num_steps: int = 0


class Calibrated(Objective):
    """row_weight * Huber(row's mean log p - its goal) + Huber(token's log p - its goal) + KL(goal || model).

    With no base model there is only the first. Tokens alone would leave a bias: their goals are conditional means, so
    matching them token by token need not bring the row's mean, which is what tells members from others, to its place.
    The true token's likelihood alone would leave what it is compared with to chance: the other answers that the model
    would give. They are the base model's own, which makes the true one one among them (`decoy_rank`). Every `refresh`
    steps the goals follow the model: forgetting also moves what it makes of people it never saw.
    """

    name: Literal["calibrated"] = "calibrated"
    row_weight: float = Field(3.0, ge=0, le=1000)
    delta: float = Field(1.0, gt=0, le=100)
    num_others: int = Field(64, ge=1, le=4096)
    refresh: int = Field(8, ge=1, le=10_000)

    def start(self, setting: Setting) -> _State:
        base = setting.base
        return _State(
            setting.calibration, likeliest_others(base.model, setting.forget, self.num_others) if base else []
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
        ids_NK, probs_NK = (
            torch.cat(parts).to(logp_N.device) for parts in ([o.ids_NK for o in others], [o.probs_NK for o in others])
        )
        # log p of any token is its logit less what the answer's token says of the normalisation: no pass over V.
        norm_N1 = (forget.logits_NV.gather(1, forget.targets_N[:, None])[:, 0] - logp_N)[:, None]
        logp_NK = forget.logits_NV.gather(1, ids_NK) - norm_N1
        per_token_N = calibrated_loss(logp_N, target_N, self.delta) + divergence(logp_N, target_N, logp_NK, probs_NK)
        return loss + forget.mean(per_token_N)


@torch.no_grad()
def likeliest_others(model: Any, sequences: list[Encoded], number: int) -> list[Others]:
    """Per sequence the `number` likeliest other tokens at each of its answer tokens, on the CPU."""
    found: dict[int, Others] = {}
    for indices in by_length(sequences, 8):
        batch = collate([sequences[i] for i in indices]).to(model.device)
        logits_NV = logits_of(model, batch).scatter(1, targets_of(batch)[:, None], -torch.inf)
        top = logits_NV.softmax(1).topk(min(number, logits_NV.shape[1] - 1), dim=1)
        lengths = batch.answer_mask_BT.sum(1).tolist()
        for i, ids_nK, probs_nK in zip(
            indices, top.indices.cpu().split(lengths), top.values.cpu().split(lengths), strict=True
        ):
            found[i] = Others(ids_nK, probs_nK)
    return [found[i] for i in range(len(sequences))]
