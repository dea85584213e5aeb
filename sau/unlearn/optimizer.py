"""AdamW over exactly what may move: dense parameters, and the survivors of masked matrices.

The survivors of a matrix are gathered into a vector, which is what the optimizer sees; after its step they are
scattered back. A pruned weight is never written, so it stays +0.0 bit for bit, and has no optimizer state.
Masking the gradient alone would not do: momentum and weight decay move masked weights too.
Shape suffixes: O output features, I input features, S survivors of one matrix in row-major order.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from sau.errors import DivergedError
from sau.sparsity.mask import Mask

Redistribute = Callable[["Survivors", Tensor], Tensor]
"""(matrix, its step_S as AdamW made it) -> the step_S to take instead."""


class Survivors:
    """One masked matrix and its surviving weights as a vector.

    Attributes:
        name, weight, kept_OI: the parameter [O, I] and its mask.
        values_S: the survivors, the parameter that AdamW steps.
        num_survivors_O: how many survivors each row has.
        forget_gradient_S: of the forget term alone, where unlearning noted it.
    """

    def __init__(self, name: str, weight: nn.Parameter, kept_OI: Tensor) -> None:
        self.name, self.weight, self.kept_OI = name, weight, kept_OI.to(weight.device)
        # int32 halves the memory of the index, and gathers as fast.
        self._index_S = self.kept_OI.reshape(-1).nonzero()[:, 0].int()
        self.values_S = nn.Parameter(self.gather(weight.detach()))
        self.num_survivors_O = self.kept_OI.sum(1)
        self.forget_gradient_S = torch.zeros_like(self.values_S)

    @property
    def gradient_OI(self) -> Tensor:
        """The weight's gradient, defined where it is pruned too."""
        assert self.weight.grad is not None, f"{self.name}: no gradient yet"
        return self.weight.grad

    @property
    def retain_gradient_S(self) -> Tensor:
        """The retain term's gradient, once both terms' backward passes are done."""
        return self.gather(self.gradient_OI) - self.forget_gradient_S

    def gather(self, dense_OI: Tensor) -> Tensor:
        """The survivors' entries [S] of a matrix [O, I]."""
        return dense_OI.reshape(-1).index_select(0, self._index_S)

    def scatter(self, values_S: Tensor) -> Tensor:
        """A matrix [O, I] with these entries at the survivors and zero elsewhere."""
        dense = values_S.new_zeros(self.kept_OI.numel())
        return dense.scatter_(0, self._index_S.long(), values_S).view(self.kept_OI.shape)

    def write(self) -> None:
        """Put `values_S` back into the weight."""
        self.weight.detach().view(-1).scatter_(0, self._index_S.long(), self.values_S.detach())


def row_sums(values_S: Tensor, num_survivors_O: Tensor) -> Tensor:
    """Sums [O] over each row's survivors; 0 for a row that has none."""
    return torch.segment_reduce(values_S, "sum", lengths=num_survivors_O, initial=0.0, unsafe=True)


class SurvivorAdamW:
    """AdamW without weight decay over named parameters of a model, those in the mask through their survivors."""

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], mask: Mask, *, lr: float) -> None:
        self.layers: list[Survivors] = []
        self.dense: list[nn.Parameter] = []
        for name, parameter in parameters:
            if name in mask:
                self.layers.append(Survivors(name, parameter, mask[name]))
            else:
                self.dense.append(parameter)
        self._stepped = [*self.dense, *(layer.values_S for layer in self.layers)]
        self.adamw = torch.optim.AdamW(self._stepped, lr=lr, weight_decay=0.0, fused=True)

    def zero_grad(self) -> None:
        self.adamw.zero_grad(set_to_none=True)
        for layer in self.layers:
            layer.weight.grad = None

    @torch.no_grad()
    def restart(self) -> None:
        """Take the weights as they are now, and forget the moments of how they used to move."""
        self.adamw.state.clear()
        for layer in self.layers:
            layer.values_S.copy_(layer.gather(layer.weight))

    @torch.no_grad()
    def step(self, *, lr: float, max_norm: float = math.inf, redistribute: Redistribute | None = None) -> float:
        """One step; returns the norm of the gradient over what may move, before clipping.

        Clipping sees survivors only: gradients of pruned weights would shrink everyone's step for nothing.

        Raises:
            DivergedError: the gradient is not finite; no weight has been touched.
        """
        for layer in self.layers:
            if layer.weight.grad is not None:
                layer.values_S.grad = layer.gather(layer.gradient_OI)
        gradients = [p.grad for p in self._stepped if p.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm):
            raise DivergedError(f"the gradient's norm is {norm}")
        if redistribute:  # it also reads gradients where weights are pruned, which the norm leaves out
            for layer in self.layers:
                if layer.weight.grad is not None and not layer.gradient_OI.norm().isfinite():
                    raise DivergedError(f"the gradient of {layer.name} is not finite where it is pruned")
        nn.utils.clip_grads_with_norm_(self._stepped, max_norm, torch.tensor(norm))
        for group in self.adamw.param_groups:
            group["lr"] = lr
        self.adamw.step()
        for layer in self.layers:
            if redistribute and layer.weight.grad is not None:
                before_S = layer.gather(layer.weight)
                step_S = layer.values_S - before_S
                taken_S = redistribute(layer, step_S)
                if taken_S is not step_S:  # before + (after - before) is not after in the last bit
                    layer.values_S.copy_(before_S + taken_S)
            layer.write()
        return norm
