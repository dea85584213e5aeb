"""Pruners: each decides which weights of a trained model survive. One file per method."""

from collections.abc import Callable

from sau.errors import ConfigError
from sau.models import LanguageModel
from sau.params import PruneParams
from sau.registry import build
from sau.sparsity.mask import Mask, check_mask, check_structure, parse_structure
from sau.sparsity.pruners.base import Pruner
from sau.text import Encoded

__all__ = ["Pruner", "prune"]


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
            pattern itself would be fitted on it.
        params: method, structure and sparsity.
        progress: called with (matrices done, matrices, {}).

    Returns:
        The mask, which is also `lm.mask`.

    Raises:
        ConfigError: an unknown pruner, or a sparsity that contradicts an n:m structure.
        DataError: no calibration sequences.
        SparsityError: a layer the pruner cannot handle, or a result that is not what was asked for.
    """
    pattern = parse_structure(params.structure)
    if pattern and abs(params.sparsity - (implied := 1 - pattern[0] / pattern[1])) > 1e-9:
        raise ConfigError(f"sparsity {params.sparsity}: structure {params.structure} means {implied:g}")
    pruner = build(Pruner, "sau.sparsity.pruners", params.pruner)
    mask = pruner.prune(lm.model, calibration, structure=params.structure, sparsity=params.sparsity, progress=progress)
    check_structure(mask, params.structure, params.sparsity)
    check_mask(lm.model, mask)
    lm.mask = mask
    return mask
