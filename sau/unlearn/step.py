"""One optimizer step of unlearning: L = gamma * L_forget + alpha * L_retain + hold * L_earlier, survivors only."""

import math
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, SerializeAsAny, model_validator
from torch import Tensor

from sau.config import Section
from sau.models.batches import Encoded, collate
from sau.models.outputs import Outputs, forward
from sau.models.ranks import ranks_of
from sau.registry import build, built
from sau.training.finetune import AdaptParams
from sau.training.optimizer import State, SurvivorAdamW, Survivors
from sau.training.session import batches, finite, micro_batches
from sau.unlearn.objectives.base import PACKAGE as OBJECTIVES
from sau.unlearn.objectives.base import Objective, Setting
from sau.unlearn.redistribution.base import PACKAGE as REDISTRIBUTIONS
from sau.unlearn.redistribution.base import Redistribution, project_off
from sau.unlearn.stop import StopParams


class UnlearnParams(Section):
    """Sparsity-Aware Unlearning: objective, redistribution, and how hard and how long.

    order `prune-unlearn` starts from the sparse model in production; `unlearn-prune` from the dense model it was pruned
    from, whose survivors unlearn while the rest fades away over the first `fade_steps` steps.

    A step takes `batch_size` rows of each set; where a pass over the rows to forget would be more than `max_pass_steps`
    steps, so many more, in parts of `batch_size`: of several people who ask at once each is seen often enough.

    Of more than `max_retain_rows` rows to keep so many are trained on, a seeded choice: a request costs no more where
    there are more.

    Who was forgotten before is kept so by an objective that `settles`: its forget loss on at most `max_held_rows` of
    their rows, a seeded choice, weighed by `hold`, is a third term. What brings others out of sight would bring some of
    them back.

    Embeddings stay as they are with `freeze_embeddings`, and with `freeze_uncovered` so does every other matrix that is
    not pruned, such as the routers of experts.

    With `paraphrases` what is to be forgotten is also asked and answered in the other words that rows have, and so is
    the holdout, which says how likely such words are to be; retain rows stay as they were trained on.

    `optimizer_state` says how the survivors' moments are held between steps (`sau.training.optimizer.State`).

    `processes` share the model, each with a part of every matrix's rows and of every batch (`sau.models.sharding`):
    sums over them round otherwise, so how many there are is a part of the recipe.
    """

    order: Literal["prune-unlearn", "unlearn-prune"] = "prune-unlearn"
    fade_steps: int = Field(20, ge=1, le=1_000_000)
    objective: Annotated[SerializeAsAny[Objective], built(Objective, OBJECTIVES)] = Field(
        default_factory=lambda: build(Objective, OBJECTIVES, "npo")
    )
    redistribution: Annotated[SerializeAsAny[Redistribution], built(Redistribution, REDISTRIBUTIONS)] = Field(
        default_factory=lambda: build(Redistribution, REDISTRIBUTIONS, "natural")
    )
    lr: float = Field(gt=0, le=1)
    max_steps: int = Field(ge=1, le=1_000_000)
    batch_size: int = Field(8, ge=1, le=1024)
    max_pass_steps: int = Field(10, ge=1, le=1_000_000)
    max_retain_rows: int = Field(800, ge=1)
    gamma: float = Field(1.0, ge=0, le=1000)
    alpha: float = Field(1.0, ge=0, le=1000)
    hold: float = Field(10.0, ge=0, le=1000)
    max_held_rows: int = Field(800, ge=1)
    freeze_embeddings: bool = True
    freeze_uncovered: bool = True
    max_grad_norm: float = Field(1.0, gt=0)
    paraphrases: bool = False
    adapt: AdaptParams | None = None
    stop: StopParams | None = StopParams()
    optimizer_state: State = Field("float32", exclude_if=lambda state: state == "float32")
    processes: int = Field(1, ge=1, le=1024, exclude_if=lambda processes: processes == 1)

    @property
    def holds(self) -> bool:
        """Whether rows of those who were forgotten before are used."""
        return self.hold > 0 and self.objective.settles

    @model_validator(mode="after")
    def _fades_in_time(self) -> Self:
        if self.order == "unlearn-prune" and self.fade_steps > self.max_steps:
            raise ValueError(f"fade_steps {self.fade_steps}: at most max_steps, {self.max_steps}")
        return self


class UnlearnStep:
    """One optimizer step of unlearning, each time it is called."""

    def __init__(
        self,
        setting: Setting,
        optimizer: SurvivorAdamW,
        params: UnlearnParams,
        seed: int,
    ) -> None:
        self.setting, self.params, self.optimizer = setting, params, optimizer
        self.ranks = ranks_of(setting.lm.model)
        self.objective, self.redistribution = params.objective, params.redistribution
        self.objective_state = self.objective.start(setting)
        self.redistribution_state = self.redistribution.start(optimizer.layers, setting)
        self.forget_gradients: dict[str, Tensor] = {}  # [S] of the forget term alone, within a step
        self.hidden_block = self.objective.hidden_block(setting.lm.model)
        # Generators of their own: the order of forget rows must not depend on the other sets.
        num_asked = len(setting.forget) - setting.num_earlier
        size = max(params.batch_size, math.ceil(num_asked / params.max_pass_steps))
        self.forget_order = batches(setting.forget[:num_asked], size, seed)
        self.retain_order = batches(setting.retain, size, seed + 1)
        earlier = batches(setting.forget[num_asked:], size, seed + 2)
        self.earlier_order = ([num_asked + i for i in rows] for rows in earlier)
        self.num_retain = 0  # batches of retain rows taken

    def skip(self, num_forget: int, num_retain: int) -> None:
        """Pass over the batches of steps that an earlier attempt has taken."""
        num_earlier = num_forget if self.setting.num_earlier else 0
        for order, count in (
            (self.forget_order, num_forget),
            (self.retain_order, num_retain),
            (self.earlier_order, num_earlier),
        ):
            for _ in range(count):
                next(order)
        self.num_retain = num_retain

    def __call__(self, lr: float, alpha: float) -> dict[str, float]:
        """Take the step with this learning rate and weight of the retain term; returns its losses and gradient norm.

        Raises:
            DivergedError: a loss or gradient that is not finite; the weights are those of the step before.
        """
        self.optimizer.zero_grad()
        values = {
            "forget_loss": self.backward(
                self.setting.forget, self.forget_order, self.objective.forget_loss, self.params.gamma
            )
        }
        loss = self.params.gamma * values["forget_loss"]
        for layer in self.optimizer.layers:
            if layer.weight.grad is not None:
                self.redistribution.observe(layer, self.redistribution_state)
                if self.redistribution.project:
                    self.forget_gradients[layer.name] = layer.gather(layer.gradient_OI)
        if self.objective.has_retain_term and alpha:
            self.num_retain += 1
            values["retain_loss"] = self.backward(
                self.setting.retain, self.retain_order, self.objective.retain_loss, alpha
            )
            loss += alpha * values["retain_loss"]
        if self.setting.num_earlier:
            values["earlier_loss"] = self.backward(
                self.setting.forget, self.earlier_order, self.objective.forget_loss, self.params.hold
            )
            loss += self.params.hold * values["earlier_loss"]
        if self.redistribution.reads_gradient:
            for layer in self.optimizer.layers:
                layer.check_gradient()
        norm = self.optimizer.step(lr=lr, max_norm=self.params.max_grad_norm, redistribute=self._redistribute)
        for name in self.objective.adds_up if self.ranks.size > 1 else ():
            whole = self.ranks.total(torch.tensor(getattr(self.objective_state, name), dtype=torch.float64))
            setattr(self.objective_state, name, float(whole))
        self.objective.after_step(self.objective_state)
        return {"loss": loss, **values, "gradient_norm": norm}

    def backward(
        self,
        sequences: list[Encoded],
        order: Iterator[list[int]],
        term: Callable[[Outputs, Any], Tensor],
        weight: float,
    ) -> float:
        """Forward and backward of one term: one after the other, so that only one graph is ever in memory.

        Every objective is a mean over records, so parts of a batch add up to it by their share of its records.
        """
        model, value = self.setting.lm.model, 0.0
        most = self.setting.lm.micro_batch or math.ceil(self.params.batch_size / self.ranks.size)
        for part, share in micro_batches(next(order), most, self.ranks):
            batch = collate([sequences[i] for i in part]).to(model.device)
            rows_B = torch.tensor(part, device=model.device)
            outputs = forward(model, batch, rows_B, hidden_block=self.hidden_block, share=share)
            loss = term(outputs, self.objective_state)
            value += finite(loss, share, self.ranks)
            (weight * share * loss).backward()
            self.ranks.collect()
        return value

    def _redistribute(self, layer: Survivors, step_S: Tensor) -> Tensor:
        taken_S = self.redistribution.redistribute(layer, step_S, self.redistribution_state)
        if self.redistribution.project:
            forget_gradient_S = self.forget_gradients.pop(layer.name, 0.0)
            gradient_S = layer.gather(layer.gradient_OI) - forget_gradient_S
            taken_S = project_off(taken_S, gradient_S, layer.ranks)
        return taken_S
