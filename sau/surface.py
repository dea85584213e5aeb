"""The six calls of `import sau`: open, prune, unlearn, verify, save, export.

Models are opened and saved by folder, rows are those of `sau.data`. Everything else is a call into one of the rooms,
which have more to set.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sau.checkpoint.export import export
from sau.checkpoint.manifest import SparseCheckpoint
from sau.checkpoint.sparse import PackageParams, open_model, save_sparse
from sau.config import checked
from sau.data.records import Row
from sau.data.sets import Sets
from sau.errors import CheckpointError
from sau.mask import Mask
from sau.models.dense import save_dense
from sau.models.door import check_model
from sau.models.language_model import LanguageModel, seeded
from sau.pruners import PruneParams
from sau.pruners import prune as prune_model
from sau.training.session import History
from sau.unlearn.step import UnlearnParams
from sau.unlearn.unlearn import unlearn as unlearn_model
from sau.verify.standalone import verify_paths

__all__ = ["export", "open", "prune", "save", "unlearn", "verify"]

open = open_model
verify = verify_paths


def prune(
    lm: LanguageModel, rows: Sequence[Row], *, seed: int = 0, num_threads: int | None = None, **params: Any
) -> Mask:
    """Prune a model in place, calibrated on rows that are to be kept; see `sau.pruners.prune`.

    It is tried at the door first (`sau.models.door.check_model`).

    Args:
        params: fields of `PruneParams`: pruner, structure, sparsity.

    Raises:
        ModelError: it is not let in.
        ConfigError, DataError, SparsityError: see there.
    """
    chosen = checked(PruneParams, params, "prune")
    check_model(lm)
    with seeded(seed, num_threads):
        return prune_model(lm, lm.encode(rows[: chosen.calibration_rows]), chosen)


def unlearn(
    lm: LanguageModel,
    sets: Sets,
    *,
    base: LanguageModel | None = None,
    seed: int = 0,
    num_threads: int | None = None,
    **params: Any,
) -> History:
    """Make a model forget, in place; see `sau.unlearn.unlearn.unlearn`.

    Args:
        params: fields of `UnlearnParams`: objective, redistribution, lr, max_steps, stop.

    Raises:
        ConfigError, DataError, SparsityError, DivergedError: see there.
    """
    chosen = checked(UnlearnParams, {"lr": 1e-3, "max_steps": 200, **params}, "unlearn")
    return unlearn_model(lm, sets, chosen, base=base, seed=seed, num_threads=num_threads)


def save(
    lm: LanguageModel, folder: str | Path, *, structure: str = "unstructured", **package: Any
) -> SparseCheckpoint | None:
    """Write a model that has a mask as a sparse checkpoint, another as a dense Hugging Face folder.

    Args:
        package: fields of `PackageParams`: dtype, compression; a dense folder is float32.

    Returns:
        What a sparse checkpoint says of itself.

    Raises:
        ConfigError, CheckpointError, SparsityError: see `sau.checkpoint.sparse.save_sparse`.
    """
    target = Path(folder)
    if lm.mask is not None:
        return save_sparse(lm, target, structure=structure, package=checked(PackageParams, package, "package"))
    if target.exists() and any(target.iterdir()):
        raise CheckpointError(f"{target}: not empty")
    save_dense(lm, target)
    return None
