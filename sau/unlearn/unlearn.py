"""Sparsity-Aware Unlearning: the one run that makes a model forget.

Same model, rows, parameters, seed and thread count give the same weights bit for bit.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sau.config import Section
from sau.data.records import Row
from sau.errors import ConfigError, DataError
from sau.mask import fading_mask
from sau.models.batches import Encoded, collate
from sau.models.language_model import LanguageModel, seeded
from sau.models.outputs import Outputs, forward
from sau.models.scoring import answer_logps
from sau.registry import build
from sau.training.finetune import AdaptParams, adapted
from sau.training.optimizer import SurvivorAdamW, Survivors
from sau.training.session import History, Progress, batches, finite, naming, training
from sau.unlearn.objectives.base import Objective, Setting
from sau.unlearn.redistribution.base import Redistribution, project_off
from sau.unlearn.stop import Frontier, StopParams


class UnlearnParams(Section):
    """Sparsity-Aware Unlearning: objective, redistribution, and how hard and how long.

    order `prune-unlearn` starts from the sparse model in production; `unlearn-prune` from the dense model it was pruned
    from, whose survivors unlearn while the rest fades away over the first `fade_steps` steps.
    """

    order: Literal["prune-unlearn", "unlearn-prune"] = "prune-unlearn"
    fade_steps: int = Field(20, ge=1, le=1_000_000)
    objective: dict[str, Any] | str = "npo"
    redistribution: dict[str, Any] | str = "natural"
    lr: float = Field(gt=0, le=1)
    max_steps: int = Field(ge=1, le=1_000_000)
    batch_size: int = Field(8, ge=1, le=1024)
    gamma: float = Field(1.0, ge=0, le=1000)
    alpha: float = Field(1.0, ge=0, le=1000)
    freeze_embeddings: bool = True
    max_grad_norm: float = Field(1.0, gt=0)
    adapt: AdaptParams | None = None
    stop: StopParams | None = StopParams()

    @model_validator(mode="after")
    def _fades_in_time(self) -> Self:
        if self.order == "unlearn-prune" and self.fade_steps > self.max_steps:
            raise ValueError(f"fade_steps {self.fade_steps}: at most max_steps, {self.max_steps}")
        return self


MAX_EVAL_ROWS = 100


def unlearn(
    lm: LanguageModel,
    forget: list[Row],
    retain: list[Row],
    holdout: list[Row],
    params: UnlearnParams,
    *,
    seed: int,
    base: LanguageModel | None = None,
    num_threads: int | None = None,
    progress: Progress | None = None,
    watch: bool = True,
) -> History:
    """Sparsity-Aware Unlearning in place: L = gamma * L_forget + alpha * L_retain, survivors only.

    Each step takes one batch of forget rows and one of retain rows; both sets are gone through in seeded order,
    again and again. With `params.stop`, every `eval_every` steps the mean answer log-probability (over tokens, then
    over records, at most MAX_EVAL_ROWS of a set) is measured: unlearning ends once the forget rows have come down to
    what is expected of a model that never saw them, finds its own learning rate on the way, and leaves the best state
    it has seen (`sau.unlearn.stop.StopParams`). Without it, all steps are taken, the learning rate falling linearly to 0. A
    model without a mask is unlearned densely.

    With order `unlearn-prune` the model's weights are dense still, and its mask is the one that it will get: what the
    mask takes fades away evenly over the first `fade_steps` steps and is gone after them, so that unlearning sees it
    go, and no pruning or recovery afterwards brings anything back.

    Args:
        lm: changed in place; its mask stays, and pruned weights stay +0.0 after every step.
        forget, retain, holdout: rows to forget, to keep, and never trained on.
        params: objective, redistribution, how hard and how long.
        seed, num_threads: fix the result bit for bit.
        base: the model before it was trained on any of these rows; with it the goal is calibrated row by row.
        progress: called after every step with (step, max_steps, numbers).
        watch: without a stop rule, whether to measure at all.

    Returns:
        Measurements before the first step, at every check and at the end: step, forget_logp, retain_logp,
        holdout_logp, target_logp, and after a step also lr, alpha, loss, forget_loss, retain_loss (where there is one),
        gradient_norm. With `params.stop` `steps` is that of the state left, which need not be the last measured.

    Raises:
        ConfigError: an unknown or contradictory objective or redistribution.
        DataError: an empty set.
        SparsityError: pruned weights that are not +0.0.
        DivergedError: a loss or gradient that is not finite; the weights are those of the step before.
    """
    for name, rows in (("forget", forget), ("retain", retain), ("holdout", holdout)):
        if not rows:
            raise DataError(f"unlearning: the {name} set is empty")
    objective = build(Objective, "sau.unlearn.objectives", params.objective)
    redistribution = build(Redistribution, "sau.unlearn.redistribution", params.redistribution)
    never_seen = lm.encode(holdout[i] for i in _sample(holdout, seed))
    kept = lm.encode(retain)
    if base is not None and params.adapt:
        base = adapted(base, kept, params.adapt, seed=seed, num_threads=num_threads)
    setting = Setting(lm, forget, lm.encode(forget), kept, never_seen, base)
    watched = {
        "forget_logp": (setting.forget, _sample(forget, seed)),
        "retain_logp": (setting.retain, _sample(retain, seed)),
    }
    started = time.monotonic()
    stopped, lr = "max_steps", params.lr
    to_fade = params.fade_steps if params.order == "unlearn-prune" and lm.mask else 0
    with (
        seeded(seed, num_threads),
        fading_mask(lm.model, lm.mask or {}) if to_fade else contextlib.nullcontext() as fade,
        training(lm, params.freeze_embeddings, lambda name: objective.trains(name, lm.model)) as parameters,
    ):
        if not parameters:
            raise ConfigError(f"objective {objective.name}: none of this model's parameters may move")
        optimizer = SurvivorAdamW(parameters, lm.mask or {})
        step_once = UnlearnStep(setting, objective, redistribution, optimizer, params, seed)
        watch = watch or params.stop is not None
        trajectory = [{"step": 0, **_measure(setting, watched)}] if watch else []
        frontier = None
        if params.stop:
            frontier = Frontier(params.stop, [p for _, p in parameters], trajectory[0]["retain_logp"])
            if not to_fade:  # what is there before fading cannot be gone back to
                frontier.judge(0, trajectory[0])
        for step in range(1, params.max_steps + 1):
            rate = lr if params.stop else lr * (1 - (step - 1) / params.max_steps)
            with naming(step, objective.name):
                values = step_once(rate)
            if fade:
                fade(max(1 - step / to_fade, 0.0))
            if progress:
                progress(step, params.max_steps, values)
            due = params.stop and step % params.stop.eval_every == 0 and step >= to_fade
            if not (watch and (due or step == params.max_steps)):
                continue
            settings = {"step": step, "lr": rate, "alpha": step_once.alpha}
            trajectory.append({**settings, **values, **_measure(setting, watched)})
            advice = frontier.judge(step, trajectory[-1]) if frontier else "go on"
            if advice == "done":
                stopped = "target"
                break
            if frontier and (advice in ("back", "protect") or step == params.max_steps):
                frontier.restore()
                optimizer.restart()
            lr *= {"back": 0.5, "protect": 0.5, "harder": 2.0}.get(advice, 1.0)
            if advice == "protect":
                step_once.alpha *= 2
    steps = frontier.step if frontier else params.max_steps
    return History(steps, stopped, trajectory, time.monotonic() - started)


class UnlearnStep:
    """One optimizer step of unlearning, each time it is called."""

    def __init__(
        self,
        setting: Setting,
        objective: Objective,
        redistribution: Redistribution,
        optimizer: SurvivorAdamW,
        params: UnlearnParams,
        seed: int,
    ) -> None:
        self.setting, self.params, self.optimizer = setting, params, optimizer
        self.alpha = params.alpha  # doubled by the loop where utility breaks
        self.objective, self.redistribution = objective, redistribution
        self.objective_state = objective.start(setting)
        self.redistribution_state = redistribution.start(optimizer.layers, setting)
        self.forget_gradients: dict[str, Tensor] = {}  # [S] of the forget term alone, within a step
        self.hidden_block = objective.hidden_block(setting.lm.model)
        # Two generators: the order of forget rows must not depend on the retain set.
        self.forget_order = batches(setting.forget, params.batch_size, seed)
        self.retain_order = batches(setting.retain, params.batch_size, seed + 1)

    def __call__(self, lr: float) -> dict[str, float]:
        self.optimizer.zero_grad()
        values = {
            "forget_loss": self._backward(
                self.setting.forget, self.forget_order, self.objective.forget_loss, self.params.gamma
            )
        }
        loss = self.params.gamma * values["forget_loss"]
        for layer in self.optimizer.layers:
            if layer.weight.grad is not None:
                self.redistribution.observe(layer, self.redistribution_state)
                if self.redistribution.project:
                    self.forget_gradients[layer.name] = layer.gather(layer.gradient_OI)
        if self.objective.has_retain_term and self.alpha:
            values["retain_loss"] = self._backward(
                self.setting.retain, self.retain_order, self.objective.retain_loss, self.alpha
            )
            loss += self.alpha * values["retain_loss"]
        if self.redistribution.reads_gradient:
            for layer in self.optimizer.layers:
                layer.check_gradient()
        norm = self.optimizer.step(lr=lr, max_norm=self.params.max_grad_norm, redistribute=self._redistribute)
        self.objective.after_step(self.objective_state)
        return {"loss": loss, **values, "gradient_norm": norm}

    def _backward(
        self,
        sequences: list[Encoded],
        order: Iterator[list[int]],
        term: Callable[[Outputs, Any], Tensor],
        weight: float,
    ) -> float:
        """Forward and backward of one term: one after the other, so that only one graph is ever in memory."""
        model = self.setting.lm.model
        rows = next(order)
        batch = collate([sequences[i] for i in rows]).to(model.device)
        rows_B = torch.tensor(rows, device=model.device)
        loss = term(forward(model, batch, rows_B, hidden_block=self.hidden_block), self.objective_state)
        value = finite(loss)
        (weight * loss).backward()
        return value

    def _redistribute(self, layer: Survivors, step_S: Tensor) -> Tensor:
        taken_S = self.redistribution.redistribute(layer, step_S, self.redistribution_state)
        if self.redistribution.project:
            forget_gradient_S = self.forget_gradients.pop(layer.name, 0.0)
            taken_S = project_off(taken_S, layer.gather(layer.gradient_OI) - forget_gradient_S)
        return taken_S


def _sample(rows: Sequence[Row], seed: int) -> list[int]:
    """At most MAX_EVAL_ROWS row numbers, seeded."""
    return torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:MAX_EVAL_ROWS].tolist()


def _measure(setting: Setting, watched: dict[str, tuple[list[Encoded], list[int]]]) -> dict[str, float]:
    """Mean answer log-probability of each set, nats: over tokens, then over records; and the forget rows' goal."""
    setting.calibration.fit()
    readings = {
        name: mean_answer_logp(setting.lm, [rows[i] for i in chosen]) for name, (rows, chosen) in watched.items()
    }
    return readings | {
        "holdout_logp": setting.calibration.holdout_logp,  # the fit has just read these rows
        "target_logp": setting.calibration.mean_target(watched["forget_logp"][1]),
    }


def mean_answer_logp(lm: LanguageModel, sequences: Sequence[Encoded]) -> float:
    """Mean over records of the mean log-probability of the answer's tokens, nats."""
    return float(torch.stack([logp.mean() for logp in answer_logps(lm.model, sequences)]).mean())
