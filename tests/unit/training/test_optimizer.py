"""The optimizer: AdamW of survivors alone, in its steps, its norm and its memory."""

import pytest
import torch
from torch import Tensor, nn

from sau.mask import check_mask
from sau.training import eight_bit
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


def _stepped(state: str, *, steps: int = 20) -> tuple[Tensor, SurvivorAdamW]:
    """How far a half pruned matrix goes in steps of one mean gradient and much noise, ten times as large in some rows
    as in others, and the optimizer."""
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(160, 100)
    kept = torch.rand(100, 160, generator=generator) > 0.5
    mean = torch.randn(100, 160, generator=generator) * 10.0 ** -torch.rand(100, 1, generator=generator)
    with torch.no_grad():
        linear.weight.masked_fill_(~kept, 0.0)
    before = linear.weight.detach().clone()
    optimizer = SurvivorAdamW(linear.named_parameters(), {"weight": kept}, state=state)
    for _ in range(steps):
        linear.weight.grad = mean * (1 + torch.randn(100, 160, generator=generator))
        linear.bias.grad = torch.ones(100)
        optimizer.step(lr=1e-2)
        check_mask(linear, {"weight": kept})
    return (linear.weight.detach() - before)[kept], optimizer


def test_moments_in_eight_bits_step_as_those_of_32_do_in_a_quarter_of_the_bytes():
    (whole, usual), (moved, small) = _stepped("float32"), _stepped("8bit")
    assert torch.cosine_similarity(whole, moved, dim=0) > 0.99
    assert float(moved.norm() / whole.norm()) == pytest.approx(1, abs=0.02)
    bytes_of = [sum(t.nbytes for t in optimizer.moments["weight"]) for optimizer in (usual, small)]
    assert bytes_of[1] < 0.26 * bytes_of[0]
    assert [len(small.moments[name]) for name in ("weight", "bias")] == [5, 3], "a short vector stays float32"


def test_without_moments_a_step_is_the_sign_of_the_gradient():
    moved, optimizer = _stepped("none", steps=1)
    assert not optimizer.moments
    assert moved.abs().median() == pytest.approx(1e-2, rel=1e-3)
    whole, _ = _stepped("float32", steps=1)
    torch.testing.assert_close(moved, whole, msg="AdamW's first step")


def test_a_square_that_was_rounded_off_lets_no_weight_jump():
    """The library's kernels need not keep small numbers from becoming 0; dividing by that would be 1e4 steps here."""
    _, optimizer = _stepped("8bit")
    mean, scales, square, of_square, count = optimizer.moments["weight"]
    nothing = eight_bit.pack(torch.zeros(len(square)), signed=False)[0]
    optimizer.moments["weight"] = (mean, scales, nothing, torch.zeros_like(of_square), count)
    (layer,) = optimizer.layers
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.full_like(before, 1e-4)
    optimizer.step(lr=1e-2)
    assert (layer.weight.detach() - before).abs().max() < 8 * 1e-2


@pytest.mark.parametrize("signed", [True, False])
def test_what_is_packed_comes_back_to_a_hundredth(signed):
    values = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    values = values if signed else values.abs()
    values[::7] = 0
    back = eight_bit.unpack(*eight_bit.pack(values, signed=signed), signed=signed)
    assert back[::7].abs().max() < 1e-4 * values.abs().max()
    large = values.abs() > 0.1
    assert float(((back - values).abs() / values.abs())[large].median()) < 0.02
