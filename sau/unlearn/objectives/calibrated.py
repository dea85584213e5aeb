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

from sau.unlearn.calibration import Calibration
from sau.unlearn.objectives.base import Objective, Outputs, Setting


def calibrated_loss(logp_N: Tensor, target_N: Tensor, delta: float) -> Tensor:
    """Huber(log p - target) [N]: quadratic within `delta` nats, so that no single token pulls without bound."""
    return F.huber_loss(logp_N, target_N, delta=delta, reduction="none")


@dataclass
class _State:
    calibration: Calibration
    num_steps: int = 0


class Calibrated(Objective):
    """The Huber distance of a row's mean log-probability to its target, and with a base model of each token's too.

    Tokens alone would leave a bias: targets are conditional means, so matching them token by token need not bring the
    row's mean, which is what tells members from others, to its place. Every `refresh` steps the targets follow the
    model: forgetting also moves what it makes of people it never saw.
    """

    name: Literal["calibrated"] = "calibrated"
    delta: float = Field(1.0, gt=0, le=100)
    refresh: int = Field(8, ge=1, le=10_000)

    def start(self, setting: Setting) -> _State:
        return _State(setting.calibration)

    def after_step(self, state: _State) -> None:
        state.num_steps += 1
        if state.num_steps % self.refresh == 0:
            state.calibration.fit()

    def forget_loss(self, forget: Outputs, state: _State) -> Tensor:
        targets = [state.calibration.targets[i] for i in forget.rows_B.tolist()]
        target_N = torch.cat(targets).to(forget.logp_N.device)
        gap_B = forget.sum_per_record(forget.logp_N - target_N) / forget.num_tokens_B
        loss = calibrated_loss(gap_B, torch.zeros_like(gap_B), self.delta).mean()
        if state.calibration.per_token:
            loss = loss + forget.mean(calibrated_loss(forget.logp_N, target_N, self.delta))
        return loss
