"""The stop rule: when unlearning has done enough, which state is best, and when to push harder or to step back."""

import math
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from sau.config import Section


class StopParams(Section):
    """When unlearning has done enough, and how it finds its own strength; every `eval_every` steps rows are read.

    Goal: the forget rows' mean answer log-probability is at most `margin_nats` above what the calibration expects of a
    model that never saw them (`sau.unlearn.calibration`). Floor: the retain rows' answers keep at least
    `utility_floor` of their (geometric mean) probability. Below the floor the weights go back to the best state, at
    half the learning rate and twice the weight of the retain term; more than `overshoot_nats` beyond the goal they go
    back at half the learning rate; where `patience` readings bring no tenth of the way left, it is doubled. At most
    `max_changes` times together; 0 leaves both as given.
    """

    eval_every: int = Field(4, ge=1, le=10_000)
    margin_nats: float = Field(0.0, ge=-10, le=10)
    overshoot_nats: float = Field(0.5, gt=0, le=100)
    utility_floor: float = Field(0.8, ge=0, le=1)
    patience: int = Field(5, ge=1, le=1000)
    max_changes: int = Field(6, ge=0, le=100)


Advice = Literal["go on", "done", "harder", "back", "protect"]


@dataclass
class Frontier:
    """Judges one reading after the other.

    A reading's gap is how far the forget rows are from their goal, in nats, on either side of it; its utility the
    geometric mean of the retain rows' answer probability as a share of what it was. Best is the smallest gap with the
    utility at or above the floor, or the first reading while there is none; the first to reach its goal ends the run.

    Attributes:
        step: of the best reading.
        gap: its gap.
        state: its weights, as copies.
    """

    params: StopParams
    parameters: list[nn.Parameter]
    retain_logp: float
    step: int = 0
    gap: float = math.inf
    state: list[Tensor] = field(default_factory=list)
    _gaps: list[float] = field(default_factory=list)
    _changes: int = 0
    _overshoot: float = 0.0

    def judge(self, step: int, reading: dict[str, float]) -> Advice:
        """Take in a reading (forget_logp, target_logp, retain_logp) and say what to do next."""
        above = reading["forget_logp"] - reading["target_logp"] - self.params.margin_nats
        useful = reading["retain_logp"] - self.retain_logp >= math.log(max(self.params.utility_floor, 1e-9))
        if not self._overshoot:  # where the rows already were beyond their goal, there is nothing to overshoot
            self._overshoot = self.params.overshoot_nats + max(-above, 0.0)
        done = useful and -self._overshoot <= above <= 0
        better = done or (useful and abs(above) < self.gap)
        if better or not self.state:
            self.step, self.gap = step, abs(above) if better else math.inf
            self.state = [parameter.detach().clone() for parameter in self.parameters]
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

    def _change(self, advice: Advice) -> Advice:
        self._changes += 1
        self._gaps.clear()
        return advice

    def restore(self) -> None:
        """Put the best state's weights back."""
        for parameter, value in zip(self.parameters, self.state, strict=True):
            parameter.data.copy_(value)
