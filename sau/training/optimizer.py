"""AdamW over exactly what may move: dense parameters, and the survivors of masked matrices.

AdamW sees a matrix's surviving gradients gathered into a vector, and its step is added to the survivors.
A pruned weight is never written, so it stays +0.0 bit for bit, and has no optimizer state.
Masking the gradient alone would not do: momentum and weight decay move masked weights too.
Between steps nothing is held for a masked matrix but its survivors' two moments, half of dense AdamW's at 50%.
Gradients, moments and steps are float32; a step that is added to bfloat16 weights is rounded stochastically
(`sau.models.rounding`): to the nearest, most steps would be lost.
Shape suffixes: O output features, I input features, S survivors of one matrix in row-major order.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from sau.errors import DivergedError
from sau.mask import Mask
from sau.models.layers import Matrix
from sau.models.ranks import ALONE, Ranks
from sau.models.rounding import stochastic
from sau.training import eight_bit

_SETTINGS: dict[str, Any] = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
_SETTINGS |= {"fused": True, "amsgrad": False, "maximize": False}  # which the function wants named, and no more

_MOST_MEAN = (1 - _SETTINGS["beta1"]) ** 2 / (1 - _SETTINGS["beta2"])
_MOST_MEAN /= 1 - _SETTINGS["beta1"] ** 2 / _SETTINGS["beta2"]
"""The mean's square is at most so many times the mean of squares, whatever the gradients were (Cauchy-Schwarz)."""

State = Literal["float32", "8bit", "none"]
"""How AdamW's two moments are held between steps: as they are, in eight bits (`sau.training.eight_bit`), or not at all.
Without them every step is AdamW's first: as long as the learning rate, in the direction of the gradient's sign."""

View = Callable[[Tensor], Tensor]

Redistribute = Callable[["Survivors", Tensor], Tensor]
"""(matrix, its step_S as AdamW made it) -> the step_S to take instead."""


class Survivors:
    """One masked matrix, whose surviving weights are stepped as a vector.

    Attributes:
        name, weight: the matrix and the parameter it is, or lies in.
        kept_OI: its mask.
        num_survivors_O, num_survivors: how many survivors each row and the whole matrix have.
        ranks: the processes that have its other rows, where it is shared: what is said here of the matrix is then
            said of this process's rows.
    """

    def __init__(
        self,
        name: str,
        weight: nn.Parameter,
        kept: Tensor,
        within: View = lambda whole: whole,
        ranks: Ranks = ALONE,
    ) -> None:
        """
        Args:
            kept: the parameter's mask.
            within: gives the matrix [O, I], as a view, of a tensor that is laid out as the parameter is.
        """
        self.name, self.weight, self._within, self.ranks = name, weight, within, ranks
        self.kept_OI = within(kept.to(weight.device)).contiguous()
        self.num_survivors_O = self.kept_OI.sum(1)
        self.num_survivors = int(self.num_survivors_O.sum())

    @property
    def gradient_OI(self) -> Tensor:
        """The weight's gradient in float32, defined where it is pruned too."""
        assert self.weight.grad is not None, f"{self.name}: no gradient yet"
        return self._within(self.weight.grad).float()

    def add_(self, step_S: Tensor, index_S: Tensor) -> None:
        """Add to the survivors, which are at `index()`; a pruned weight stays +0.0."""
        weight_OI = self._within(self.weight)
        if weight_OI.dtype == torch.bfloat16:  # zero is one of its numbers: a pruned weight stays +0.0 here, too
            weight_OI.copy_(stochastic(weight_OI + self.scatter(step_S)))
        elif weight_OI.is_contiguous():
            weight_OI.view(-1).scatter_add_(0, index_S, step_S)
        else:
            weight_OI.add_(self.scatter(step_S))

    def check_gradient(self) -> None:
        """Refuse a gradient that is not finite everywhere; the optimizer looks at survivors only."""
        if self.weight.grad is not None and not self.ranks.norm(self.weight.grad.norm()).isfinite():
            raise DivergedError(f"the gradient of {self.name} is not finite")

    def index(self) -> Tensor:
        """Where the survivors [S] are in the flattened matrix.

        Found anew each time, for about half a percent of an unlearning step: kept as int32, it would be as large as
        one of AdamW's moments. On CPU NumPy finds it ten times faster than torch.
        """
        if self.kept_OI.is_cpu:
            return torch.from_numpy(np.flatnonzero(self.kept_OI.numpy()))
        return self.kept_OI.view(-1).nonzero()[:, 0]

    def survivors_norm(self) -> Tensor:
        """The norm of the survivors' gradient, whatever it is where the matrix is pruned."""
        # Twice as fast as gathering, but inf * 0 is nan. Bytes become floats eight times faster than booleans do.
        norm = self.kept_OI.view(torch.uint8).float().mul_(self.gradient_OI).norm()
        return norm if norm.isfinite() else self.gather(self.gradient_OI).norm()

    def gather(self, dense_OI: Tensor) -> Tensor:
        """The survivors' entries [S] of a matrix [O, I]."""
        return dense_OI.reshape(-1).index_select(0, self.index())

    def scatter(self, values_S: Tensor) -> Tensor:
        """A matrix [O, I] with these entries at the survivors and zero elsewhere."""
        dense = values_S.new_zeros(self.kept_OI.numel())
        return dense.scatter_(0, self.index(), values_S).view(self.kept_OI.shape)


class SurvivorAdamW:
    """AdamW without weight decay over named parameters of a model, those in the mask through their survivors.

    Attributes:
        dense, layers: what it steps.
        moments: by name, the running means of the gradient and of its square, and the number of steps. Of a masked
            matrix they are [S]; in eight bits each is (codes, scales). There is no other state.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        mask: Mask,
        matrices: Iterable[Matrix] = (),
        ranks: Ranks = ALONE,
        state: State = "float32",
    ) -> None:
        """
        Args:
            parameters, mask: this process's rows, where `ranks` are several.
            matrices: how masked parameters are to be read (`sau.models.layers.prunable`), where rows matter; one
                that none of them lies in is a matrix as it is.
        """
        inside: dict[str, list[Matrix]] = {}
        for matrix in matrices:
            inside.setdefault(matrix.parameter, []).append(matrix)
        self.layers: list[Survivors] = []
        self.dense: dict[str, nn.Parameter] = {}
        self.moments: dict[str, tuple[Tensor, ...]] = {}
        self._state = state
        for name, parameter in parameters:
            if name in inside and name in mask:
                self.layers += [Survivors(m.name, parameter, mask[name], m.within, ranks) for m in inside[name]]
            elif name in mask:
                self.layers.append(Survivors(name, parameter, mask[name], ranks=ranks))
            else:
                self.dense[name] = parameter
        self._ranks = ranks
        self._weights = {layer.name: layer.weight for layer in self.layers}

    def zero_grad(self) -> None:
        for parameter in (*self.dense.values(), *(layer.weight for layer in self.layers)):
            parameter.grad = None

    def restart(self) -> None:
        """Forget the moments of how the weights used to move."""
        self.moments.clear()

    def device_of(self, name: str) -> torch.device:
        """Where a dense parameter, or a masked matrix, and its moments are."""
        return self.dense[name].device if name in self.dense else self._weights[name].device

    @torch.no_grad()
    def step(self, *, lr: float, max_norm: float = math.inf, redistribute: Redistribute | None = None) -> float:
        """One step; returns the norm of the gradient over what may move, before clipping.

        Clipping sees survivors only: gradients of pruned weights would shrink everyone's step for nothing.

        Raises:
            DivergedError: the gradient is not finite; no weight has been touched.
        """
        dense = {name: parameter.grad for name, parameter in self.dense.items() if parameter.grad is not None}
        layers = [layer for layer in self.layers if layer.weight.grad is not None]
        # One matrix at a time here and below: all survivors' vectors at once would be fresh memory at every step, whose
        # page faults cost more than looking at each gradient twice.
        norms = [gradient.norm() for gradient in dense.values()] + [layer.survivors_norm() for layer in layers]
        norm = float(self._ranks.norm(nn.utils.get_total_norm(norms)))
        if not math.isfinite(norm):
            raise DivergedError(f"the gradient's norm is {norm}")
        clip = min(1.0, max_norm / (norm + 1e-6))
        for name, gradient in dense.items():
            self._step_dense(name, self.dense[name], gradient.float().mul_(clip), lr)
        for layer in layers:
            index_S = layer.index()
            gradient_S = layer.gradient_OI.reshape(-1).index_select(0, index_S).mul_(clip)
            # Without weight decay AdamW never looks at the weights: started from zero, it makes the step itself.
            step_S = torch.zeros_like(gradient_S)
            self._adamw(layer.name, step_S, gradient_S, lr)
            taken_S = redistribute(layer, step_S) if redistribute else step_S
            layer.add_(taken_S, index_S)
        return norm

    def _step_dense(self, name: str, parameter: Tensor, gradient: Tensor, lr: float) -> None:
        if parameter.dtype != torch.bfloat16:
            self._adamw(name, parameter, gradient, lr)
            return
        step = torch.zeros_like(gradient)
        self._adamw(name, step, gradient, lr)
        parameter.copy_(stochastic(parameter + step))

    def _adamw(self, name: str, values: Tensor, gradient: Tensor, lr: float) -> None:
        """AdamW's own step of `values` in place, by PyTorch's function for it."""
        mean, square, count = self._recalled(name, values)
        adamw([values], [gradient], [mean], [square], [], [count], lr=lr, **_SETTINGS)
        if self._state == "float32" or (self._state == "8bit" and values.numel() < eight_bit.LEAST):
            self.moments[name] = (mean, square, count)
        elif self._state == "8bit":
            packed = (*eight_bit.pack(mean, signed=True), *eight_bit.pack(square, signed=False))
            self.moments[name] = (*packed, count)

    def _recalled(self, name: str, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(mean, square, count) of before this step, shaped as the values."""
        if name not in self.moments:
            count = torch.zeros((), dtype=torch.float32, device=values.device)
            return torch.zeros_like(values), torch.zeros_like(values), count
        *held, count = self.moments[name]
        if len(held) == 4:
            mean, square = (eight_bit.unpack(*held[i : i + 2], signed=not i) for i in (0, 2))
            least = mean.square().div_(_MOST_MEAN)  # a square that was rounded off to 0 would let its weight jump
            return mean.view_as(values), torch.maximum(square, least, out=square).view_as(values), count
        mean, square = held
        return mean, square, count
