"""RMU: send the hidden states of forget rows to a random direction (Li et al. 2024, arXiv 2403.03218)."""

import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from sau.errors import ConfigError
from sau.models.layers import decoder_blocks
from sau.models.outputs import Outputs, forward
from sau.unlearn.objectives.base import Objective, Setting


def mse_per_token(hidden_ND: Tensor, target_ND: Tensor) -> Tensor:
    """Mean over the hidden size of the squared difference [N]."""
    return (hidden_ND - target_ND).square().mean(1)


@dataclass(frozen=True)
class _Steering:
    target_D: Tensor
    reference: Any
    block: int


class Rmu(Objective):
    """h_l of forget rows -> c * u, u one random unit vector; h_l of retain rows -> what it was.

    Hidden states are compared at the positions that predict answer tokens. Only the MLP output matrices of
    blocks l-2 .. l move. `block` None is a quarter of the way up, as in the paper (7 of 32).
    """

    name: Literal["rmu"] = "rmu"
    block: int | None = Field(None, ge=0, le=1000)
    c: float = Field(2.0, gt=0, le=1000)

    def hidden_block(self, model: Any) -> int:
        num_blocks = len(decoder_blocks(model)[1])
        block = num_blocks // 4 if self.block is None else self.block
        if block >= num_blocks:
            raise ConfigError(f"objective rmu: block {block}, the model has blocks 0 to {num_blocks - 1}")
        return block

    def trains(self, parameter: str, model: Any) -> bool:
        block = self.hidden_block(model)
        match = re.search(r"\.(\d+)\.mlp\.down_proj\.weight$", parameter)
        return match is not None and block - 2 <= int(match[1]) <= block

    def start(self, setting: Setting) -> _Steering:
        model = setting.lm.model
        direction_D = torch.rand(model.config.hidden_size).to(model.device)
        return _Steering(self.c * direction_D / direction_D.norm(), setting.frozen_model(), self.hidden_block(model))

    def forget_loss(self, forget: Outputs, state: _Steering) -> Tensor:
        return forget.mean(mse_per_token(forget.hidden_ND, state.target_D))

    def retain_loss(self, retain: Outputs, state: _Steering) -> Tensor:
        with torch.no_grad():
            reference = forward(state.reference, retain.batch, retain.rows_B, hidden_block=state.block)
        return retain.mean(mse_per_token(retain.hidden_ND, reference.hidden_ND))
