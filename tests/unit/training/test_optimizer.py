"""The optimizer: AdamW of survivors alone, in its steps, its norm and its memory."""

import pytest
import torch
from torch import Tensor, nn

from sau.mask import check_mask
from sau.training.optimizer import SurvivorAdamW


def _linear(seed: int = 0) -> tuple[nn.Linear, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(8, 6)
    kept = torch.rand(6, 8, generator=generator) > 0.5
    with torch.no_grad():
        linear.weight.copy_(torch.randn(6, 8, generator=generator).masked_fill(~kept, 0.0))
        linear.bias.zero_()
    return linear, kept


def test_survivor_adamw_is_masked_adamw():
    """Against dense AdamW from a fresh state with masked gradients and clipping, over several steps."""
    (ours, kept), (reference, _) = _linear(), _linear()
    optimizer = SurvivorAdamW(ours.named_parameters(), {"weight": kept})
    dense = torch.optim.AdamW(reference.parameters(), lr=0.1, weight_decay=0.0)
    generator = torch.Generator().manual_seed(1)
    for lr in (0.1, 0.05, 0.02):
        gradient, bias = torch.randn(6, 8, generator=generator), torch.randn(6, generator=generator)
        ours.weight.grad, ours.bias.grad = gradient.clone(), bias.clone()
        reference.weight.grad, reference.bias.grad = gradient.masked_fill(~kept, 0.0), bias.clone()
        norm = optimizer.step(lr=lr, max_norm=1.0)
        expected = nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        assert norm == pytest.approx(float(expected), rel=1e-5)
        dense.param_groups[0]["lr"] = lr
        dense.step()
        check_mask(ours, {"weight": kept})
    torch.testing.assert_close(ours.weight, reference.weight)
    torch.testing.assert_close(ours.bias, reference.bias)


def test_pruned_gradients_do_not_enter_the_norm_even_when_infinite():
    linear, kept = _linear()
    optimizer = SurvivorAdamW(linear.named_parameters(), {"weight": kept})
    linear.weight.grad = torch.where(kept, 1.0, float("inf"))
    assert optimizer.step(lr=0.1) == pytest.approx(float(kept.sum()) ** 0.5)
    check_mask(linear, {"weight": kept})
    assert linear.weight.isfinite().all()


def test_survivor_that_crosses_zero_stays_a_survivor():
    linear, kept = _linear()
    optimizer = SurvivorAdamW(linear.named_parameters(), {"weight": kept})
    with torch.no_grad():
        linear.weight[kept] = 0.0
    linear.weight.grad = torch.ones(6, 8)
    optimizer.step(lr=0.1)
    assert (linear.weight != 0).equal(kept)


def test_optimizer_state_is_for_survivors_only(lm):
    masked = {name: p for name, p in lm.model.named_parameters() if name in lm.mask}
    ours = SurvivorAdamW(masked.items(), lm.mask)
    dense_parameters = [nn.Parameter(p.detach().clone()) for p in masked.values()]
    dense = torch.optim.AdamW(dense_parameters, lr=0.1)
    for p in (*masked.values(), *dense_parameters):
        p.grad = torch.ones_like(p)
    ours.step(lr=0.1)
    dense.step()

    moments = [t for tensors in ours.moments.values() for t in tensors]
    others = [t for layer in ours.layers for t in vars(layer).values() if isinstance(t, Tensor)]
    models = {t.data_ptr() for t in (*masked.values(), *lm.mask.values())}
    held = [t for t in (*moments, *others) if t.data_ptr() not in models]  # weights and mask are the model's own
    assert sum(t.nbytes for t in moments) >= 8 * sum(int(kept.sum()) for kept in lm.mask.values())
    assert sum(t.nbytes for t in held) <= 0.6 * sum(t.nbytes for s in dense.state.values() for t in s.values())
