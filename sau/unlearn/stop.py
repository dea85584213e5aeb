"""The stop rule: asked after each reading, it says when unlearning has done enough, and how hard to go on.

It owns all that changes on the way: learning rate, weight of the retain term, and the best state seen.
"""

import math
from typing import Any, Literal, Protocol

from pydantic import Field
from torch import Tensor, nn

from sau.config import Section
from sau.training.optimizer import SurvivorAdamW

EVAL_ROWS = 100
"""Of each set, where nothing else is said."""


class StopParams(Section):
    """When unlearning has done enough, and how it finds its own strength; every `eval_every` steps, at most `eval_rows`
    of each set are read.

    Goal: the forget rows' mean answer log-probability is at most `margin_nats` above what the calibration expects of a
    model that never saw them (`sau.unlearn.calibration`). Floor: the retain rows' answers keep at least
    `utility_floor` of their (geometric mean) probability. Below the floor the weights go back to the best state, at
    half the learning rate and twice the weight of the retain term; more than `overshoot_nats` beyond the goal they go
    back at half the learning rate; where `patience` readings bring no tenth of the way left, it is doubled. At most
    `max_changes` times together; 0 leaves both as given.
    """

    eval_every: int = Field(4, ge=1, le=10_000)
    eval_rows: int = Field(EVAL_ROWS, ge=1, le=100_000)
    margin_nats: float = Field(0.0, ge=-10, le=10)
    overshoot_nats: float = Field(0.5, gt=0, le=100)
    utility_floor: float = Field(0.8, ge=0, le=1)
    patience: int = Field(5, ge=1, le=1000)
    max_changes: int = Field(6, ge=0, le=100)


class Stop(Protocol):
    """What the loop asks.

    Attributes:
        alpha: weight of the retain term in the next step.
        num_steps: steps behind the weights that are left.
        reason: `target` where the goal ended the run, else `max_steps`.
    """

    alpha: float
    num_steps: int
    reason: Literal["target", "max_steps"]

    def lr(self, step: int) -> float:
        """The learning rate of step `step`, counted from 1."""

    def reads(self, step: int) -> bool:
        """Whether rows have to be read after this step."""

    def judge(self, step: int, reading: dict[str, float]) -> bool:
        """Take in a reading (forget_logp, target_logp, retain_logp); True where the run is over."""

    def remember(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What it has learned on the way, as JSON values and tensors."""

    def recall(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Go on from what another of the same run remembered."""


class AllSteps:
    """No goal: every step is taken, the learning rate falling linearly to 0; rows are read at the end if at all."""

    def __init__(self, *, lr: float, alpha: float, max_steps: int, watch: bool) -> None:
        self.alpha, self.num_steps, self._lr, self._watch = alpha, max_steps, lr, watch
        self.reason: Literal["target", "max_steps"] = "max_steps"

    def lr(self, step: int) -> float:
        return self._lr * (1 - (step - 1) / self.num_steps)

    def reads(self, step: int) -> bool:
        return self._watch and step == self.num_steps

    def judge(self, step: int, reading: dict[str, float]) -> bool:
        return False

    def remember(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {}, {}

    def recall(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        pass


_ON_THE_WAY = ("num_steps", "gap", "reason", "alpha", "_lr", "_gaps", "_changes", "_overshoot")
"""What of a `Frontier` changes from reading to reading, beside the best state."""

Advice = Literal["go on", "done", "harder", "back", "protect"]


class Frontier:
    """Stays on the frontier of forgetting and utility, and ends at the goal of `StopParams`.

    A reading's gap is how far the forget rows are from their goal, in nats, on either side of it; its utility the
    geometric mean of the retain rows' answer probability as a share of what it was. Best is the smallest gap with the
    utility at or above the floor, or the first reading while there is none; the first to reach its goal ends the run.

    Attributes:
        num_steps, gap, state: of the best reading: its step, its gap, and its weights as copies.
    """

    def __init__(
        self,
        params: StopParams,
        optimizer: SurvivorAdamW,
        parameters: list[nn.Parameter],
        before: dict[str, float],
        *,
        lr: float,
        alpha: float,
        max_steps: int,
        to_fade: int = 0,
    ) -> None:
        """
        Args:
            before: the reading before the first step.
            lr, alpha: where to begin.
            to_fade: so many steps what the mask takes is still fading: no state before can be gone back to.
        """
        self.params, self.alpha, self.num_steps, self.gap = params, alpha, 0, math.inf
        self.reason: Literal["target", "max_steps"] = "max_steps"
        self.state: list[Tensor] = []
        self._optimizer, self._parameters = optimizer, parameters
        self._lr, self._max_steps, self._to_fade = lr, max_steps, to_fade
        self._retain_logp = before["retain_logp"]
        self._gaps: list[float] = []
        self._changes = 0
        self._overshoot = 0.0
        if not to_fade:
            self.advise(0, before)

    def lr(self, step: int) -> float:
        return self._lr

    def reads(self, step: int) -> bool:
        return step == self._max_steps or (step % self.params.eval_every == 0 and step >= self._to_fade)

    def judge(self, step: int, reading: dict[str, float]) -> bool:
        advice = self.advise(step, reading)
        if advice == "done":
            self.reason = "target"
            return True
        if advice in ("back", "protect") or step == self._max_steps:
            self.restore()
        self._lr *= {"back": 0.5, "protect": 0.5, "harder": 2.0}.get(advice, 1.0)
        self.alpha *= 2 if advice == "protect" else 1
        return False

    def advise(self, step: int, reading: dict[str, float]) -> Advice:
        """Take in a reading and say what to do next."""
        above = reading["forget_logp"] - reading["target_logp"] - self.params.margin_nats
        useful = reading["retain_logp"] - self._retain_logp >= math.log(max(self.params.utility_floor, 1e-9))
        if not self._overshoot:  # where the rows already were beyond their goal, there is nothing to overshoot
            self._overshoot = self.params.overshoot_nats + max(-above, 0.0)
        done = useful and -self._overshoot <= above <= 0
        better = done or (useful and abs(above) < self.gap)
        if better or not self.state:
            self.num_steps, self.gap = step, abs(above) if better else math.inf
            self.state = [parameter.detach().clone() for parameter in self._parameters]
        if done:
            return "done"
        self._gaps.append(above)
        if self._changes == self.params.max_changes:
            return "go on"
        if not useful:
            return self._change("protect")
        if above < 0:
            return self._change("back")
        recent = self._gaps[-self.params.patience - 1 :]
        if len(recent) > self.params.patience and recent[-1] > 0.9 * recent[0]:
            return self._change("harder")
        return "go on"

    def remember(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        numbers = {name: getattr(self, name) for name in _ON_THE_WAY}
        return numbers, {str(i): value for i, value in enumerate(self.state)}

    def recall(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        for name in _ON_THE_WAY:
            setattr(self, name, numbers[name])
        devices = [parameter.device for parameter in self._parameters]
        self.state = [tensors[str(i)].to(device) for i, device in enumerate(devices)] if tensors else []

    def _change(self, advice: Advice) -> Advice:
        self._changes += 1
        self._gaps.clear()
        return advice

    def restore(self) -> None:
        """Put the best state's weights back; the optimizer forgets how they used to move."""
        for parameter, value in zip(self._parameters, self.state, strict=True):
            parameter.data.copy_(value)
        self._optimizer.restart()
