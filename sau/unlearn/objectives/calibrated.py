"""Calibrated forgetting: bring forget rows to where rows the model never saw are, and no further. Our own.

Losses that push a row's likelihood down have no floor near the right place: where to stop decides everything, and
weights that are pruned afterwards move the stopping point. This one has its minimum at the estimate of
`sau.unlearn.calibration`, so that training converges to it.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sau.models.outputs import Outputs
from sau.unlearn.calibration import Calibration
from sau.unlearn.divergence import NUM_OTHERS, Said, divergence_from, said, staying_loss
from sau.unlearn.objectives.base import Objective, Setting


def calibrated_loss(logp_N: Tensor, target_N: Tensor, delta: float) -> Tensor:
    """Huber(log p - target) [N]: quadratic within `delta` nats, so that no single token pulls without bound."""
    return F.huber_loss(logp_N, target_N, delta=delta, reduction="none")


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
    row_weight: float = Field(3.0, ge=0, le=1000)
    delta: float = Field(1.0, gt=0, le=100)
    num_others: int = Field(NUM_OTHERS, ge=1, le=4096)
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
        per_token_N = calibrated_loss(logp_N, target_N, self.delta) + divergence_from(forget, target_N, others)
        return loss + forget.mean(per_token_N)

    def retain_loss(self, retain: Outputs, state: _State) -> Tensor:
        if not state.kept:
            return retain.mean_nll
        return staying_loss(retain, state.kept)
