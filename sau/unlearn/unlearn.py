"""Sparsity-Aware Unlearning: the one run that makes a model forget.

Same model, rows, parameters, seed and thread count give the same weights bit for bit.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from sau.data.paraphrases import with_paraphrases
from sau.data.records import Row
from sau.data.sets import Sets
from sau.errors import ConfigError
from sau.models.batches import Encoded
from sau.models.language_model import LanguageModel, seeded
from sau.models.layers import prunable, uncovered
from sau.models.ranks import ranks_of
from sau.models.scoring import answer_logps
from sau.training import eight_bit
from sau.training.finetune import adapted
from sau.training.optimizer import SurvivorAdamW
from sau.training.resume import Resume, Standing, put_back, sizes_of, standing
from sau.training.session import History, Progress, naming, training
from sau.unlearn.fading import check_can_fade, fading_mask
from sau.unlearn.objectives.base import Setting
from sau.unlearn.remembering import Remembering, tensors_in
from sau.unlearn.step import UnlearnParams, UnlearnStep
from sau.unlearn.stop import EVAL_ROWS, AllSteps, Frontier, Stop


def unlearn(
    lm: LanguageModel,
    sets: Sets,
    params: UnlearnParams,
    *,
    seed: int,
    base: LanguageModel | None = None,
    num_threads: int | None = None,
    progress: Progress | None = None,
    watch: bool = True,
    resume: Resume | None = None,
) -> History:
    """Sparsity-Aware Unlearning in place: L = gamma * L_forget + alpha * L_retain + hold * L_earlier, survivors only.

    Each step takes one batch of forget rows, one of retain rows, and one of those that were forgotten before, where
    there are any; each set is gone through in seeded order, again and again. With `params.stop` the mean answer
    log-probability (over tokens, then over records, at most `eval_rows` of a set) is read on the way, and
    `sau.unlearn.stop` decides when to end, how hard to push, and which state to leave. Without it, all steps are taken.
    A model without a mask is unlearned densely.

    What moves are survivors, and vectors such as norms and biases. Other matrices (routers of experts, convolutions)
    stay as they are with `params.freeze_uncovered`, embeddings with `params.freeze_embeddings`.

    With order `unlearn-prune` the weights are dense still, and the mask is the one they will get: what it takes fades
    away evenly over the first `fade_steps` steps, so that unlearning sees it go and no pruning or recovery afterwards
    brings anything back.

    Args:
        lm: changed in place; its mask stays, and pruned weights stay +0.0 after every step. One that lies on several
            processes (`sau.models.sharding`) is unlearned by all of them together, `base` too.
        sets: rows to forget, to keep, never trained on, and forgotten before.
        params: objective, redistribution, how hard and how long.
        seed, num_threads: fix the result bit for bit.
        base: the model before it was trained on any of these rows; with it the goal is calibrated row by row.
        progress: called after every step with (step, max_steps, numbers).
        watch: without a stop rule, whether to read at all.
        resume: where a run that was killed has left its state, to go on from, and this one leaves its own.

    Returns:
        Readings before the first step, at every look and at the end: step, forget_logp, retain_logp, holdout_logp,
        target_logp, and after a step also lr, alpha, loss, forget_loss, retain_loss and earlier_loss (where there are
        such terms), gradient_norm. `steps` is that of the state left, which need not be the last read.

    Raises:
        ConfigError: an objective under which nothing may move; not what `params.processes` says, or several with
            order `unlearn-prune`; or no library for `params.optimizer_state`.
        DataError: an empty set.
        SparsityError: pruned weights that are not +0.0.
        DivergedError: a loss or gradient that is not finite; the weights are those of the step before.
    """
    sets.check_filled("unlearning")
    eight_bit.check_here(params.optimizer_state)
    ranks = ranks_of(lm.model)
    if params.processes != ranks.size:
        raise ConfigError(f"unlearn.processes {params.processes}: this model is on {ranks.size}")
    if ranks.size > 1 and params.order == "unlearn-prune":
        raise ConfigError("unlearn.processes: order unlearn-prune runs on 1, what fades is not divided")
    if _steps_to_fade(lm, params):
        check_can_fade(lm.model)  # before anything is adapted or read
    shown = sorted(_sample(sets.retain, params.max_retain_rows, seed))
    words = with_paraphrases if params.paraphrases else list[Row]
    earlier = words(sets.earlier) if params.holds else []
    held = sorted(_sample(earlier, params.max_held_rows, seed))
    sets = Sets(
        forget=words(sets.forget),
        retain=[sets.retain[i] for i in shown],
        holdout=words(sets.holdout),
        earlier=[earlier[i] for i in held],
    )
    started, objective = time.monotonic(), params.objective
    still = uncovered(lm.model, lm.mask) if params.freeze_uncovered else {}
    setting = _setting(lm, sets, params, seed, base, num_threads, resume)
    read = _reader(setting, sets, params, seed)
    with (
        seeded(seed, num_threads),
        _fading(lm, params) as fade,
        training(
            lm, params.freeze_embeddings, lambda name: name not in still and objective.trains(name, lm.model)
        ) as parameters,
    ):
        if not parameters:
            raise ConfigError(f"objective {objective.name}: none of this model's parameters may move")
        matrices = [matrix for _, matrix in prunable(lm.model)]
        optimizer = SurvivorAdamW(parameters, lm.mask or {}, matrices, ranks, params.optimizer_state)
        take_step = UnlearnStep(setting, optimizer, params, seed)
        found = resume.read(_sizes(dict(parameters), optimizer, take_step)) if resume else None
        if found:
            trajectory = found.numbers["trajectory"]
        else:
            trajectory = [{"step": 0, **read()}] if watch or params.stop else []
        stop = _stop(params, lm, optimizer, [p for _, p in parameters], trajectory, watch)
        run = _Run(dict(parameters), optimizer, take_step, stop, trajectory)
        begin, over = 1, False
        if found:
            begin, over = run.go_on(found)
            fade(begin - 1)
        for step in () if over else range(begin, params.max_steps + 1):
            lr, alpha = stop.lr(step), stop.alpha
            with naming(step, objective.name):
                values = take_step(lr, alpha)
            fade(step)
            if progress:
                progress(step, params.max_steps, values)
            if stop.reads(step):
                trajectory.append({"step": step, "lr": lr, "alpha": alpha, **values, **read()})
                over = stop.judge(step, trajectory[-1])
            over = over or step == params.max_steps
            if resume:
                resume.offer(partial(run.standing, step, over), last=over)
            if over:
                break
    return History(stop.num_steps, stop.reason, trajectory, time.monotonic() - started)


class _Run:
    """Everything that changes in a run: taken down as a state, and gone on from."""

    def __init__(
        self,
        parameters: dict[str, torch.nn.Parameter],
        optimizer: SurvivorAdamW,
        take_step: UnlearnStep,
        stop: Stop,
        trajectory: list[dict[str, float]],
    ) -> None:
        self.parameters, self.optimizer, self.take_step, self.stop = parameters, optimizer, take_step, stop
        self.trajectory = trajectory
        self.memories = {
            "objective": Remembering(take_step.objective_state),
            "redistribution": Remembering(take_step.redistribution_state),
        }

    def standing(self, step: int, over: bool) -> Standing:
        numbers, best = self.stop.remember()
        numbers = {"step": step, "over": over, "retain": self.take_step.num_retain, "stop": numbers}
        tensors: dict[str, dict[str, torch.Tensor]] = {"best": best}
        for name, memory in self.memories.items():
            changed = memory.changed()
            tensors[name] = {path: value for path, value in changed.items() if isinstance(value, torch.Tensor)}
            numbers[name] = {path: value for path, value in changed.items() if path not in tensors[name]}
        return standing(self.parameters, self.optimizer, numbers | {"trajectory": self.trajectory}, **tensors)

    def go_on(self, found: Standing) -> tuple[int, bool]:
        """The step to take next, and whether the run was over already."""
        put_back(found, self.parameters, self.optimizer)
        step = found.numbers["step"]
        self.take_step.skip(step, found.numbers["retain"])
        self.stop.recall(found.numbers["stop"], found.below("best"))
        for name, memory in self.memories.items():
            memory.recall(found.numbers[name] | found.below(name))
        return step + 1, found.numbers["over"]


def _sizes(
    parameters: dict[str, torch.nn.Parameter], optimizer: SurvivorAdamW, take_step: UnlearnStep
) -> dict[str, int]:
    """How many entries this process has of what `_Run.standing` takes down."""
    best = {str(i): parameter for i, parameter in enumerate(parameters.values())}
    return sizes_of(parameters, optimizer, best=best, redistribution=tensors_in(take_step.redistribution_state))


def _setting(
    lm: LanguageModel,
    sets: Sets,
    params: UnlearnParams,
    seed: int,
    base: LanguageModel | None,
    num_threads: int | None,
    resume: Resume | None,
) -> Setting:
    """What objectives may look at; the base model adapted to the retain rows where `params` says so."""
    never_seen = lm.encode(sets.holdout[i] for i in _sample(sets.holdout, _num_read(params), seed))
    retain = lm.encode(sets.retain)
    if base is not None and params.adapt:
        within = resume.within("adapt") if resume else None
        base = adapted(base, retain, params.adapt, seed=seed, num_threads=num_threads, resume=within)
    forget = [*sets.forget, *sets.earlier]
    return Setting(lm, forget, lm.encode(forget), retain, never_seen, base, len(sets.earlier))


def _stop(
    params: UnlearnParams,
    lm: LanguageModel,
    optimizer: SurvivorAdamW,
    parameters: list[torch.nn.Parameter],
    trajectory: list[dict[str, float]],
    watch: bool,
) -> Stop:
    if params.stop is None:
        return AllSteps(lr=params.lr, alpha=params.alpha, max_steps=params.max_steps, watch=watch)
    return Frontier(
        params.stop,
        optimizer,
        parameters,
        trajectory[0],
        lr=params.lr,
        alpha=params.alpha,
        max_steps=params.max_steps,
        to_fade=_steps_to_fade(lm, params),
    )


def _steps_to_fade(lm: LanguageModel, params: UnlearnParams) -> int:
    return params.fade_steps if params.order == "unlearn-prune" and lm.mask else 0


@contextlib.contextmanager
def _fading(lm: LanguageModel, params: UnlearnParams) -> Iterator[Callable[[int], None]]:
    """Yields what is called after each step: what the mask takes is then gone a step further, where it fades."""
    if not (to_fade := _steps_to_fade(lm, params)):
        yield lambda step: None
        return
    with fading_mask(lm.model, lm.mask or {}) as fade:
        yield lambda step: fade(max(1 - step / to_fade, 0.0))


def _sample(rows: Sequence[Row], most: int, seed: int) -> list[int]:
    """The numbers of at most so many rows, seeded."""
    return torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:most].tolist()


def _num_read(params: UnlearnParams) -> int:
    """How many rows of a set are read."""
    return params.stop.eval_rows if params.stop else EVAL_ROWS


def _reader(setting: Setting, sets: Sets, params: UnlearnParams, seed: int) -> Callable[[], dict[str, float]]:
    """What reads, each time it is called, the mean answer log-probability of each set (nats: over tokens, then over
    records) and the forget rows' goal."""
    forget, retain = (_sample(rows, _num_read(params), seed) for rows in (sets.forget, sets.retain))

    def read() -> dict[str, float]:
        setting.calibration.fit()
        reading = {
            "forget_logp": mean_answer_logp(setting.lm, [setting.forget[i] for i in forget]),
            "retain_logp": mean_answer_logp(setting.lm, [setting.retain[i] for i in retain]),
            "holdout_logp": setting.calibration.holdout_logp,  # the fit has just read these rows
            "target_logp": setting.calibration.mean_target(forget),
        }
        return ranks_of(setting.lm.model).agreed(reading)  # what is decided by it, all decide alike

    return read


def mean_answer_logp(lm: LanguageModel, sequences: Sequence[Encoded]) -> float:
    """Mean over records of the mean log-probability of the answer's tokens, nats."""
    return float(torch.stack([logp.mean() for logp in answer_logps(lm.model, sequences)]).mean())
