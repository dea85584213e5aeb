"""Finetuning: ordinary training, recovery of a pruned model under its mask, and adapting a base model.

Same model, rows, parameters, seed and thread count give the same weights bit for bit.
"""

import math
import time
from dataclasses import replace
from functools import partial

import torch
from pydantic import Field

from sau.config import Section
from sau.errors import DataError
from sau.models.batches import Encoded, collate
from sau.models.language_model import LanguageModel, seeded
from sau.models.ranks import ranks_of
from sau.models.scoring import logits_of, targets_of, token_logps
from sau.training.optimizer import SurvivorAdamW
from sau.training.resume import Resume, put_back, sizes_of, standing
from sau.training.session import History, Progress, batches, finite, micro_batches, naming, training


class FinetuneParams(Section):
    """Ordinary finetuning on question-answer rows (train) and the same under a mask (recover)."""

    epochs: int = Field(ge=0, le=10_000)
    lr: float = Field(gt=0, le=1)
    batch_size: int = Field(8, ge=1, le=1024)
    freeze_embeddings: bool = False


class AdaptParams(FinetuneParams):
    """A short finetuning of the base model on at most `max_rows` of the retain rows, before it says how hard a forget
    row is (`sau.unlearn.calibration`): a base model that knows the data's manner, and what is in it of other people,
    guesses more like a model retrained without the forget rows than one that knows neither."""

    max_rows: int = Field(256, ge=1, le=1_000_000)


def finetune(
    lm: LanguageModel,
    sequences: list[Encoded],
    params: FinetuneParams,
    *,
    seed: int,
    num_threads: int | None = None,
    progress: Progress | None = None,
    resume: Resume | None = None,
) -> History:
    """Ordinary finetuning in place, or recovery of a pruned model where `lm.mask` is set.

    Loss: mean NLL per answer token of the batch. AdamW without weight decay, learning rate falling linearly to 0.

    Args:
        resume: where a run that was killed has left its state, to go on from, and this one leaves its own.

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
    with seeded(seed, num_threads), training(lm, params.freeze_embeddings) as parameters:
        ranks = ranks_of(lm.model)
        optimizer = SurvivorAdamW(parameters, lm.mask or {}, ranks=ranks)
        order = batches(sequences, params.batch_size, seed)
        begin = 1
        if found := resume.read(sizes_of(dict(parameters), optimizer)) if resume else None:
            put_back(found, dict(parameters), optimizer)
            begin, epoch_loss = found.numbers["step"] + 1, found.numbers["epoch_loss"]
            trajectory += found.numbers["trajectory"]
            for _ in range(1, begin):
                next(order)
        for step in range(begin, total + 1):
            rows = next(order)
            num_tokens = sum(sequences[i].num_answer_tokens for i in rows)
            value = 0.0
            optimizer.zero_grad()
            with naming(step, "finetune"):
                for part, share in micro_batches(rows, lm.micro_batch, ranks):
                    batch = collate([sequences[i] for i in part]).to(lm.model.device)
                    nll_N = -token_logps(logits_of(lm.model, batch, packed=True), targets_of(batch))
                    loss = nll_N.mean() * (len(nll_N) / num_tokens if share else 0.0)
                    value += finite(loss, ranks=ranks)
                    loss.backward()
                    ranks.collect()
                optimizer.step(lr=params.lr * (1 - (step - 1) / total))
            epoch_loss += value / steps_per_epoch
            if progress:
                progress(step, total, {"loss": value})
            if step % steps_per_epoch == 0:
                trajectory.append({"step": step, "epoch": step // steps_per_epoch, "loss": epoch_loss})
                epoch_loss = 0.0
            if resume:
                numbers = {"step": step, "epoch_loss": epoch_loss, "trajectory": trajectory}
                resume.offer(partial(standing, dict(parameters), optimizer, numbers), last=step == total)
    return History(total, "max_steps", trajectory, time.monotonic() - started)


def num_steps(params: FinetuneParams, num_sequences: int) -> int:
    """Optimizer steps of a whole finetuning."""
    return params.epochs * math.ceil(num_sequences / params.batch_size)


def adapted(
    base: LanguageModel,
    retain: list[Encoded],
    params: AdaptParams,
    *,
    seed: int,
    num_threads: int | None = None,
    resume: Resume | None = None,
) -> LanguageModel:
    """A copy of the base model that has been finetuned on some of the retain rows, and has seen none to forget."""
    order = torch.randperm(len(retain), generator=torch.Generator().manual_seed(seed))[: params.max_rows].tolist()
    copied = replace(base, model=ranks_of(base.model).copy(base.model), mask=None)
    finetune(copied, [retain[i] for i in order], params, seed=seed, num_threads=num_threads, resume=resume)
    return copied
