"""Pruners: each decides which weights of a trained model survive. One file per method."""

from collections.abc import Callable
from typing import Annotated

from pydantic import Field, SerializeAsAny

from sau.config import Section
from sau.errors import ConfigError, SparsityError
from sau.mask import Mask, check_mask, check_structure, mask_digest, parse_structure
from sau.models.batches import Encoded
from sau.models.language_model import LanguageModel
from sau.models.layers import prunable
from sau.models.ranks import ranks_of
from sau.pruners.base import PACKAGE, Pruner
from sau.registry import build, built

__all__ = ["PACKAGE", "PruneParams", "Pruner", "prune"]


class PruneParams(Section):
    """Which weights go. `processes` divide the calibration rows, each with the whole model: their statistics are summed
    in another order, so how many there are is a part of the recipe."""

    pruner: Annotated[SerializeAsAny[Pruner], built(Pruner, PACKAGE)] = Field(
        default_factory=lambda: build(Pruner, PACKAGE, "wanda")
    )
    structure: str = Field("unstructured", pattern=r"^(unstructured|\d+:\d+)$")
    sparsity: float = Field(0.5, gt=0, lt=1)
    calibration_rows: int = Field(64, ge=1, le=100_000)
    processes: int = Field(1, ge=1, le=1024, exclude_if=lambda processes: processes == 1)


def prune(
    lm: LanguageModel,
    calibration: list[Encoded],
    params: PruneParams,
    *,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> Mask:
    """Prune a model in place and give it its mask.

    Args:
        lm: pruned weights become +0.0; some pruners also change the survivors.
        calibration: sequences whose layer inputs say which weights matter. Never forget data: the sparsity
            pattern itself would be fitted on it. Processes that each have the whole model (`sau.models.ranks`) divide
            them.
        params: method, structure and sparsity.
        progress: called with (matrices done, matrices, {}).

    Returns:
        The mask, which is also `lm.mask`.

    Raises:
        ConfigError: a sparsity that contradicts an n:m structure.
        DataError: no calibration sequences.
        SparsityError: weights that are not finite, a layer the pruner cannot handle, a result that is not what was
            asked for, or not the same on all processes.
    """
    pattern = parse_structure(params.structure)
    if pattern and abs(params.sparsity - (implied := 1 - pattern[0] / pattern[1])) > 1e-9:
        raise ConfigError(f"sparsity {params.sparsity}: structure {params.structure} means {implied:g}")
    if bad := [name for name, weight in lm.model.named_parameters() if not weight.isfinite().all()]:
        raise SparsityError(f"{bad[0]}: holds numbers that are not finite ({len(bad)} parameters do)")
    mask = params.pruner.prune(
        lm.model, calibration, structure=params.structure, sparsity=params.sparsity, progress=progress
    )
    in_rows = {matrix.name: matrix.within(mask[matrix.parameter]) for _, matrix in prunable(lm.model)}
    check_structure(in_rows, params.structure, params.sparsity)
    check_mask(lm.model, mask)
    ranks = ranks_of(lm.model)
    if ranks.size > 1 and (digest := mask_digest(mask)) != ranks.agreed(digest):
        raise SparsityError("the processes have pruned to different masks")
    lm.mask = mask
    return mask
