"""Gradient difference: ascend on forget rows, descend on retain rows (Liu et al. 2022, arXiv 2203.12817)."""

from typing import Any, Literal

import torch
from torch import Tensor

from sau.models.outputs import Outputs, forward
from sau.unlearn.objectives.base import Objective, Setting


def kl_to_reference(logits_NV: Tensor, reference_NV: Tensor) -> Tensor:
    """KL(reference || model) [N] per answer token."""
    reference_logp_NV = reference_NV.log_softmax(1)
    return (reference_logp_NV.exp() * (reference_logp_NV - logits_NV.log_softmax(1))).sum(1)


class GradDiff(Objective):
    """L_forget = -NLL/n; L_retain = NLL/n, or KL(reference || model) on answer tokens."""

    name: Literal["grad_diff"] = "grad_diff"
    retain: Literal["nll", "kl"] = "nll"

    def start(self, setting: Setting) -> Any:
        return setting.frozen_model() if self.retain == "kl" else None

    def forget_loss(self, forget: Outputs, state: Any) -> Tensor:
        return -forget.mean_nll

    def retain_loss(self, retain: Outputs, state: Any) -> Tensor:
        if state is None:
            return retain.mean_nll
        with torch.no_grad():
            reference = forward(state, retain.batch, retain.rows_B)
        return retain.mean(kl_to_reference(retain.logits_NV, reference.logits_NV))
