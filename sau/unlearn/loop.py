"""The one training loop: it owns the optimizer, the mask, the order of rows, the stop rule and the NaN checks.

Same model, rows, parameters, seed and thread count give the same weights bit for bit.
"""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sau.data.records import Row
from sau.errors import ConfigError, DataError, DivergedError
from sau.models import LanguageModel, seeded
from sau.params import AdaptParams, FinetuneParams, UnlearnParams
from sau.registry import build
from sau.sparsity.mask import check_mask, fading_mask
from sau.text import Encoded, answer_logps, collate, logits_of, targets_of, token_logps
from sau.unlearn.frontier import Frontier
from sau.unlearn.objectives.base import Objective, Outputs, Setting, forward
from sau.unlearn.optimizer import SurvivorAdamW, Survivors
from sau.unlearn.redistribution.base import Redistribution, project_off

MAX_EVAL_ROWS = 100
LENGTH_JITTER = 0.2

Progress = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class History:
    """What a training run did.

    Attributes:
        steps: optimizer steps taken.
        stopped: "target" where the stop rule ended it, else "max_steps".
        trajectory: measurements in order of `step`; log-probabilities are nats per answer token.
        seconds: wall time.
    """

    steps: int
    stopped: str
    trajectory: list[dict[str, float]]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return asdict(self)


def finetune(
    lm: LanguageModel,
    sequences: list[Encoded],
    params: FinetuneParams,
    *,
    seed: int,
    num_threads: int | None = None,
    progress: Progress | None = None,
) -> History:
    """Ordinary finetuning in place, or recovery of a pruned model where `lm.mask` is set.

    Loss: mean NLL per answer token of the batch. AdamW without weight decay, learning rate falling linearly to 0.

    Returns:
        One measurement per epoch: step, epoch, loss (mean over its steps).

    Raises:
        DataError: no sequences.
        SparsityError: pruned weights that are not +0.0.
        DivergedError: a loss or gradient that is not finite; the weights are those of the step before.
    """
    if not sequences:
        raise DataError("finetuning needs at least one row")
    total = num_steps(params, len(sequences))
    steps_per_epoch = total // max(params.epochs, 1)
    trajectory: list[dict[str, float]] = []
    epoch_loss = 0.0
    started = time.monotonic()
    with seeded(seed, num_threads), _training(lm, params.freeze_embeddings) as parameters:
        optimizer = SurvivorAdamW(parameters, lm.mask or {})
        order = _batches(sequences, params.batch_size, seed)
        for step in range(1, total + 1):
            batch = collate([sequences[i] for i in next(order)]).to(lm.model.device)
            optimizer.zero_grad()
            loss = -token_logps(logits_of(lm.model, batch, packed=True), targets_of(batch)).mean()
            with _naming(step, "finetune"):
                value = _finite(loss)
                loss.backward()
                optimizer.step(lr=params.lr * (1 - (step - 1) / total))
            epoch_loss += value / steps_per_epoch
            if progress:
                progress(step, total, {"loss": value})
            if step % steps_per_epoch == 0:
                trajectory.append({"step": step, "epoch": step // steps_per_epoch, "loss": epoch_loss})
                epoch_loss = 0.0
    return History(total, "max_steps", trajectory, time.monotonic() - started)


def num_steps(params: FinetuneParams, num_sequences: int) -> int:
    """Optimizer steps of a whole finetuning."""
    return params.epochs * math.ceil(num_sequences / params.batch_size)


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
    it has seen (`sau.params.StopParams`). Without it, all steps are taken, the learning rate falling linearly to 0. A
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
        _training(lm, params.freeze_embeddings, lambda name: objective.trains(name, lm.model)) as parameters,
    ):
        if not parameters:
            raise ConfigError(f"objective {objective.name}: none of this model's parameters may move")
        optimizer = SurvivorAdamW(parameters, lm.mask or {})
        step_once = _UnlearnStep(setting, objective, redistribution, optimizer, params, seed)
        watch = watch or params.stop is not None
        trajectory = [{"step": 0, **_measure(setting, watched)}] if watch else []
        frontier = None
        if params.stop:
            frontier = Frontier(params.stop, [p for _, p in parameters], trajectory[0]["retain_logp"])
            if not to_fade:  # what is there before fading cannot be gone back to
                frontier.judge(0, trajectory[0])
        for step in range(1, params.max_steps + 1):
            rate = lr if params.stop else lr * (1 - (step - 1) / params.max_steps)
            with _naming(step, objective.name):
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


def adapted(
    base: LanguageModel, retain: list[Encoded], params: AdaptParams, *, seed: int, num_threads: int | None = None
) -> LanguageModel:
    """A copy of the base model that has been finetuned on some of the retain rows, and has seen none to forget."""
    order = torch.randperm(len(retain), generator=torch.Generator().manual_seed(seed))[: params.max_rows].tolist()
    copied = LanguageModel(copy.deepcopy(base.model), base.tokenizer, base.prompt)
    finetune(copied, [retain[i] for i in order], params, seed=seed, num_threads=num_threads)
    return copied


class _UnlearnStep:
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
        self.forget_order = _batches(setting.forget, params.batch_size, seed)
        self.retain_order = _batches(setting.retain, params.batch_size, seed + 1)

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
        value = _finite(loss)
        (weight * loss).backward()
        return value

    def _redistribute(self, layer: Survivors, step_S: Tensor) -> Tensor:
        taken_S = self.redistribution.redistribute(layer, step_S, self.redistribution_state)
        if self.redistribution.project:
            forget_gradient_S = self.forget_gradients.pop(layer.name, 0.0)
            taken_S = project_off(taken_S, layer.gather(layer.gradient_OI) - forget_gradient_S)
        return taken_S


@contextlib.contextmanager
def _training(
    lm: LanguageModel, freeze_embeddings: bool, trains: Callable[[str], bool] = lambda name: True
) -> Iterator[list[tuple[str, torch.nn.Parameter]]]:
    """The parameters that may move; while open, only they have gradients.

    Dropout stays off: a loss against stored references has to see the function they were taken from.
    """
    model = lm.model
    if lm.mask is not None:
        check_mask(model, lm.mask)
    embeddings = [model.get_input_embeddings(), model.get_output_embeddings()] if freeze_embeddings else []
    frozen = {id(p) for module in embeddings if module is not None for p in module.parameters()}
    required = {p: p.requires_grad for p in model.parameters()}
    model.eval()
    try:
        moving = []
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(id(parameter) not in frozen and trains(name))
            if parameter.requires_grad:
                moving.append((name, parameter))
        yield moving
    finally:
        for parameter, before in required.items():
            parameter.requires_grad_(before)
            parameter.grad = None


def _batches(sequences: Sequence[Encoded], batch_size: int, seed: int) -> Iterator[list[int]]:
    """Row numbers in batches without end; every epoch, in a new seeded order, holds each row once.

    Rows of similar length share a batch, so that little of it is padding: rows are sorted by their length times a
    random factor within 1 +- LENGTH_JITTER, cut into batches, and the batches shuffled. Where the rows do not come
    out even, the smaller batch is of random rows: cut off the end of the order it would always be the longest ones.
    Each batch is in order of length, as `Batch.parts` wants it.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([len(s.input_ids) for s in sequences])
    while True:
        order = torch.randperm(len(lengths), generator=generator)
        rest, order = order.tensor_split([len(lengths) % batch_size])
        jitter = 1 + LENGTH_JITTER * (2 * torch.rand(len(order), generator=generator) - 1)
        order = order[(lengths[order] * jitter).argsort(stable=True)]
        batches = [rows for rows in (rest, *order.split(batch_size)) if len(rows)]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield sorted(batches[i].tolist(), key=lambda row: len(sequences[row].input_ids))


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


def _finite(loss: Tensor) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise DivergedError(f"the loss is {value}")
    return value


@contextlib.contextmanager
def _naming(step: int, objective: str) -> Iterator[None]:
    """Say in a DivergedError which step of which objective it was."""
    try:
        yield
    except DivergedError as error:
        raise DivergedError(f"step {step}, objective {objective}: {error}") from None
