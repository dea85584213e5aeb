"""Rounding to two bytes that does not take an update back.

Unlearning moves most weights by less than half the distance between two bfloat16 numbers, so rounding to the nearest
returns them to the value they had: the model remembers. Stochastic rounding (Gupta et al. 2015, arXiv 1502.02551;
for bfloat16 weight updates Zamirai et al. 2020, arXiv 2010.06192) goes up with the probability that is the way already
gone, so E[rounded] = value: each weight errs by less than one bfloat16 step, but the errors of a row are independent
with mean zero, and what the row's update does to its output survives in expectation. A weight that is a bfloat16
number stays what it is: where the parent was one, only weights that moved are drawn, and +0.0 stays +0.0.
What is minimised is the bias, not the error: nearest has the smaller error, all of it against the update.
All of it holds of float16 alike, whose steps are an eighth as long, and equally long below 2^-14.
"""

import torch
from torch import Tensor

_LOW_BITS = 16  # a bfloat16 number is the upper half of a float32 number


def round_to(state: dict[str, Tensor], dtype: torch.dtype, rounding: str, *, seed: int) -> dict[str, Tensor]:
    """Float32 tensors in another dtype; those that are no floating-point numbers stay what they are.

    Args:
        rounding: "nearest" or "stochastic"; float32 is not rounded.
        seed: fixes what is drawn; a tensor's draws depend on the seed and the order of the tensors alone.
    """
    drawing = dtype in _STOCHASTIC and rounding == "stochastic"
    generator = torch.Generator().manual_seed(seed) if drawing else None

    def rounded(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        return value.to(dtype) if generator is None else _STOCHASTIC[dtype](value.float(), generator)

    return {name: rounded(value) for name, value in state.items()}


def stochastic(value: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Float32 to bfloat16, to either neighbour with E[result] = value; the draws are 16 bits, so this is exact.

    In a float's bits a larger number is a larger magnitude: a random number below one bfloat16 step is added to the
    magnitude and the lower half cut off. What is not finite stays as it is.

    Args:
        generator: on the value's device; by default torch's own there.
    """
    drawn = torch.randint(0, 1 << _LOW_BITS, value.shape, generator=generator, dtype=torch.int32, device=value.device)
    raised = ((value.contiguous().view(torch.int32) + drawn) >> _LOW_BITS).to(torch.int16).view(torch.bfloat16)
    return torch.where(value.isfinite(), raised, value.bfloat16())


def stochastic_half(value: Tensor, generator: torch.Generator) -> Tensor:
    """Float32 to float16, to either neighbour with E[result] = value but for the 24 bits of a draw.

    What is not finite, or too large for float16, becomes what rounding to the nearest makes of it.
    """
    nearest = value.half()
    bits = nearest.view(torch.int16)
    below = (bits - (nearest.float().abs() > value.abs()).to(torch.int16)).view(torch.float16)  # nearer to zero
    above = (below.view(torch.int16) + 1).view(torch.float16)
    gone = (value.abs() - below.float().abs()) / (above.float().abs() - below.float().abs())
    drawn = torch.where(torch.rand(value.shape, generator=generator) < gone, above, below)
    return torch.where(nearest.isfinite() & above.isfinite() & (nearest.float() != value), drawn, nearest)


_STOCHASTIC = {torch.bfloat16: stochastic, torch.float16: stochastic_half}
