"""What every training run has: parameters that may move, batches in seeded order, finite losses, a history."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sau.errors import DivergedError
from sau.mask import check_zeros
from sau.models.batches import Encoded
from sau.models.checkpointing import checkpointed
from sau.models.language_model import LanguageModel
from sau.models.layers import embeddings
from sau.models.ranks import ALONE, Ranks, ranks_of

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

    @property
    def last_loss(self) -> float | None:
        """Of finetuning: the last measurement's."""
        return self.trajectory[-1]["loss"] if self.trajectory else None

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return asdict(self)


@contextlib.contextmanager
def training(
    lm: LanguageModel, freeze_embeddings: bool, trains: Callable[[str], bool] = lambda name: True
) -> Iterator[list[tuple[str, torch.nn.Parameter]]]:
    """The parameters that may move; while open, only they have gradients. Of a model that several processes share,
    they are this one's rows.

    Dropout stays off: a loss against stored references has to see the function they were taken from.
    """
    model = lm.model
    own = ranks_of(model).own(model)
    if lm.mask is not None:
        check_zeros(own, lm.mask)
    frozen = embeddings(model) if freeze_embeddings else {}
    required = {p: p.requires_grad for p in model.parameters()}
    model.eval()
    try:
        moving = []
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in frozen and trains(name))
            if parameter.requires_grad:
                moving.append((name, own[name]))
        with checkpointed(model) if lm.gradient_checkpointing else contextlib.nullcontext():
            yield moving
    finally:
        for parameter, before in required.items():
            parameter.requires_grad_(before)
            parameter.grad = None
        for parameter in own.values():
            parameter.grad = None


def batches(sequences: Sequence[Encoded], batch_size: int, seed: int) -> Iterator[list[int]]:
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


def micro_batches(rows: Sequence[int], size: int | None, ranks: Ranks = ALONE) -> Iterator[tuple[Sequence[int], float]]:
    """A batch's rows in parts of at most `size`, where they stand (of rows in order of length, those alike), and each
    part's share of the batch.

    Of several processes each has every so-manieth row, so that lengths are alike, and as many parts as the others:
    where it has no row left, one that counts nothing, with share 0.
    """
    own, longest = rows[ranks.rank :: ranks.size], math.ceil(len(rows) / ranks.size)
    size = size or longest
    for first in range(0, longest, size):
        part = own[first : first + size]
        yield part or rows[:1], len(part) / len(rows)


def finite(loss: Tensor, share: float = 1.0, ranks: Ranks = ALONE) -> float:
    """`share` of the loss as a number, added up over all processes.

    Raises:
        DivergedError: it is not finite, on whichever of them.
    """
    value = share * float(loss.detach())
    if ranks.size > 1:
        value = float(ranks.total(torch.tensor(value, dtype=torch.float64, device=loss.device)))
    if not math.isfinite(value):
        raise DivergedError(f"the loss is {value}")
    return value


@contextlib.contextmanager
def naming(step: int, objective: str) -> Iterator[None]:
    """Say in a DivergedError which step of which objective it was."""
    try:
        yield
    except DivergedError as error:
        raise DivergedError(f"step {step}, objective {objective}: {error}") from None
