"""The mask that a model brings along: read from its zeros, and checked for being one.

Zeros alone are no mask. A dense model has some by accident; one that was quantised and saved dequantised has many,
where small weights were rounded to nothing. So a matrix is taken for pruned where its zeros follow a pattern that
nothing but pruning makes: n of every m inputs, whole rows or columns, or equally many in every row; and else where
there are many of them and the weights between them are not the few levels of a quantisation.
Shape suffixes: O output features, I input features, G groups, M weights of one group.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sau.config import Section
from sau.mask import Mask
from sau.models.layers import prunable
from sau.pruners.base import as_mask

MIN_SHARE = 0.2
"""Of all weights, zeros without a pattern: fewer are no mask."""

MIN_MATRIX_SHARE = 0.01
"""Of one matrix's weights, zeros without a pattern in a model that has a mask: one with fewer was left dense."""

_PATTERNS = ((1, 4), (2, 4), (1, 2), (2, 8), (4, 8), (3, 4), (6, 8), (8, 16))
"""Of n:m patterns those that are looked for; of two that fit the sparser one holds."""

_RUN = 32
"""So many weights in a row of a quantised matrix share their levels."""

_MOST_ON_LEVELS = 0.75
"""Of the magnitudes in such a run, the share that is distinct: fewer are levels."""


class AdoptParams(Section):
    """How a model that exists already is taken in.

    Attributes:
        zeros: what its zeros are: a mask where they can be told for one (auto), a mask in any case, or none (dense).
        prune: prune it by the section `prune` where it brings no mask; else unlearning does, on rows to be kept.
    """

    zeros: Literal["auto", "mask", "dense"] = "auto"
    prune: bool = False


@dataclass(frozen=True)
class Zeros:
    """What the zeros of one matrix look like.

    Attributes:
        sparsity: share of zeros in [0, 1].
        pattern: "n:m", "rows", "columns", "even rows", or "" where they follow none.
        zero_rows, zero_columns: so many outputs, and inputs, have no weight at all.
        levels: whether the other weights are few levels, as quantisation leaves them.
        masked: whether the zeros are its mask; else all its weights are survivors.
    """

    sparsity: float
    pattern: str
    zero_rows: int
    zero_columns: int
    levels: bool
    masked: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Found:
    """What a model's zeros came to.

    Attributes:
        mask: None where there is none; a matrix that was left dense is kept whole in it.
        structure: "n:m" where all masked matrices have that pattern, else "unstructured"; "dense" without a mask.
        matrices: by name.
        sparsity: share of zeros in [0, 1] over all of them, mask or not.
    """

    mask: Mask | None
    structure: str
    matrices: dict[str, Zeros]
    sparsity: float

    @property
    def words(self) -> str:
        """In a sentence."""
        masked = [zeros for zeros in self.matrices.values() if zeros.masked]
        if masked:
            share = sum(zeros.sparsity for zeros in masked) / len(masked)
            left = f", {len(self.matrices) - len(masked)} left dense" if len(masked) < len(self.matrices) else ""
            return f"{self.structure}, {share:.1%} zeros in {len(masked)} of {len(self.matrices)} matrices{left}"
        why = "what is between them are the few levels of a quantisation" if self.on_levels else "too few, no pattern"
        if any(zeros.pattern for zeros in self.matrices.values()):
            why = "as it was asked for"
        return f"dense: {self.sparsity:.2%} of its weights are zero and taken for no mask ({why})"

    @property
    def on_levels(self) -> bool:
        """Whether most matrices look quantised."""
        return 2 * sum(zeros.levels for zeros in self.matrices.values()) > len(self.matrices)


@torch.no_grad()
def find_mask(model: Any, zeros: Literal["auto", "mask", "dense"] = "auto") -> Found:
    """Read a model's mask from the zeros of all that may be pruned, matrix by matrix. Nothing is changed.

    A zero is one of either sign. Survivors that happen to be zero cannot be told from pruned weights: they are pruned.

    Args:
        zeros: see `AdoptParams`.
    """
    matrices = dict(prunable(model))
    seen = {name: look_at(matrix.weight.detach()) for name, matrix in matrices.items()}
    sizes = {name: matrix.weight.numel() for name, matrix in matrices.items()}
    share = sum(seen[name].sparsity * sizes[name] for name in seen) / max(sum(sizes.values()), 1)
    plain = [name for name in seen if not seen[name].pattern]
    without = sum(seen[name].sparsity * sizes[name] for name in plain) / max(sum(sizes[name] for name in plain), 1)
    many = without >= MIN_SHARE and 2 * sum(seen[name].levels for name in plain) <= len(plain)

    def is_masked(found: Zeros) -> bool:
        if zeros != "auto":
            return zeros == "mask" and found.sparsity > 0
        return bool(found.pattern) or (many and found.sparsity >= MIN_MATRIX_SHARE)

    told = {name: Zeros(**{**found.as_dict(), "masked": is_masked(found)}) for name, found in seen.items()}
    patterns = {found.pattern for found in told.values() if found.masked}
    if not patterns:
        return Found(None, "dense", told, share)
    mask = as_mask((matrix, (matrix.weight != 0) | (not told[name].masked)) for name, matrix in matrices.items())
    pattern = patterns.pop() if len(patterns) == 1 else ""
    return Found(mask, pattern if ":" in pattern else "unstructured", told, share)


def look_at(weight_OI: Tensor) -> Zeros:
    """What the zeros of one matrix look like, without a judgement on them."""
    zero_OI = weight_OI == 0
    zero_O, zero_I = zero_OI.all(1), zero_OI.all(0)
    rows, columns = int(zero_O.sum()), int(zero_I.sum())
    sparsity = zero_OI.float().mean().item()
    return Zeros(
        sparsity=round(sparsity, 6),
        pattern=_pattern(zero_OI, zero_O, zero_I) if 0 < sparsity < 1 else "",
        zero_rows=rows,
        zero_columns=columns,
        levels=_has_levels(weight_OI),
    )


def _pattern(zero_OI: Tensor, zero_O: Tensor, zero_I: Tensor) -> str:
    alive_OI = zero_OI[~zero_O]
    for kept, group in sorted(_PATTERNS, key=lambda pattern: pattern[0] / pattern[1]):
        if zero_OI.shape[1] % group == 0 and _in_groups(alive_OI, kept, group):
            return f"{kept}:{group}"
    num_zeros, (num_rows, num_inputs) = int(zero_OI.sum()), zero_OI.shape
    if 20 * int(zero_O.sum()) >= num_rows and int(zero_O.sum()) * num_inputs >= 0.9 * num_zeros:
        return "rows"
    if 20 * int(zero_I.sum()) >= num_inputs and int(zero_I.sum()) * num_rows >= 0.9 * num_zeros:
        return "columns"
    counts_O = alive_OI.sum(1)
    usual = int(counts_O.mode().values)
    is_even = (counts_O == usual).float().mean().item() >= 0.95
    return "even rows" if is_even and usual >= max(0.05 * num_inputs, 4) and len(counts_O) >= 8 else ""


def _in_groups(zero_OI: Tensor, kept: int, group: int) -> bool:
    """Whether every group of inputs has so few weights, and nearly every one exactly so many: else it is sparser."""
    counts_G = (~zero_OI).reshape(-1, group).sum(-1)
    return bool((counts_G <= kept).all()) and (counts_G == kept).float().mean().item() >= 0.95


def _has_levels(weight_OI: Tensor) -> bool:
    """Whether the weights of a run are few distinct magnitudes, as those of a quantised group are."""
    sample_OI = weight_OI[: 4096 // max(_RUN, 1)].float().abs()
    width = sample_OI.shape[1] // _RUN * _RUN
    if not width:
        return False
    runs_GM = sample_OI[:, :width].reshape(-1, _RUN).sort(dim=1).values[:4096]
    other_GM = runs_GM > 0
    distinct_G = ((runs_GM.diff(dim=1, prepend=torch.zeros_like(runs_GM[:, :1])) > 0) & other_GM).sum(1)
    num_G = other_GM.sum(1)
    enough_G = num_G >= 8
    if not bool(enough_G.any()):
        return False
    return float((distinct_G[enough_G] / num_G[enough_G]).median()) < _MOST_ON_LEVELS
