"""DPO towards "I don't know": refusals win over the answers to forget (Maini et al. 2024, arXiv 2401.06121;
Rafailov et al. 2023, arXiv 2305.18290)."""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sau.models.batches import Encoded
from sau.models.outputs import Outputs
from sau.unlearn.objectives.base import Objective, Setting


def dpo_loss(lose_B: Tensor, lose_reference_B: Tensor, win_B: Tensor, win_reference_B: Tensor, beta: float) -> Tensor:
    """-(2/beta) mean_B log sigmoid(beta * [(NLL_lose - NLL_lose_ref) - (NLL_win - NLL_win_ref)]), summed NLLs."""
    margin_B = (lose_B - lose_reference_B) - (win_B - win_reference_B)
    return -2 / beta * F.logsigmoid(beta * margin_B).mean()


@dataclass(frozen=True)
class _Start:
    lose: Tensor
    win: Tensor
    refusals: list[Encoded]
    setting: Setting


class IdkDpo(Objective):
    """The refusal to each question is one of `refusals`, in turn by row; both references are taken once."""

    name: Literal["idk_dpo"] = "idk_dpo"
    beta: float = Field(0.1, gt=0, le=100)
    refusals: tuple[str, ...] = Field(
        (
            "I don't know.",
            "I have no information about that.",
            "That is something I cannot answer.",
            "I am not familiar with this.",
        ),
        min_length=1,
    )

    def start(self, setting: Setting) -> _Start:
        refusals = setting.lm.encode(
            {**row, "answer": self.refusals[i % len(self.refusals)]} for i, row in enumerate(setting.forget_rows)
        )
        return _Start(setting.reference_nlls(setting.forget), setting.reference_nlls(refusals), refusals, setting)

    def forget_loss(self, forget: Outputs, state: _Start) -> Tensor:
        rows_B = forget.rows_B
        win = state.setting.forward([state.refusals[i] for i in rows_B.tolist()], rows_B)
        return dpo_loss(forget.nll_B, state.lose[rows_B], win.nll_B, state.win[rows_B], self.beta)
