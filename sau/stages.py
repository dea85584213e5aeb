"""The recipe's steps: each reads and writes fixed paths below one folder, and is one DVC stage.

    bootstrap   base -> train -> prune -> recover -> package
    forget      snapshot -> unlearn -> package
    adopt       adopt: a model that exists already, not one weight changed
    retrain     retrain -> adopt: what the user's own command makes of the rows that are left

`sau stage NAME` runs one in the current folder; a flow does the same through `dvc repro`, so there is one way
to make a model. A step's outputs are a function of its inputs and its section of params.yaml alone: no clock, no
host, no absolute path goes into them. Metrics files carry numbers only. A step that trains goes on where it was killed.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sau.checkpoint.digests import dense_digest
from sau.checkpoint.manifest import DENSE as DENSE_STRUCTURE
from sau.checkpoint.manifest import SparseCheckpoint, read_manifest
from sau.checkpoint.sparse import open_sparse, save_sparse
from sau.data.records import load_records
from sau.data.snapshot import ARTIFACTS, DATA, EARLIER, FORGET, SPLIT, read_split, take_snapshot
from sau.errors import CheckpointError
from sau.mask import apply_mask
from sau.models.batches import Encoded
from sau.models.dense import open_dense, save_dense
from sau.models.door import check_model
from sau.models.language_model import LanguageModel, seeded
from sau.models.prompt_check import check_prompt_of
from sau.models.ranks import ALONE, Ranks, set_ranks, together
from sau.models.sources import TINY, base_model
from sau.params import Params, load_params
from sau.pruners import prune
from sau.pruners.adapter import merged_in_words
from sau.pruners.found import find_mask
from sau.training.command import train_by_command
from sau.training.finetune import finetune
from sau.training.pretrain import pretrain
from sau.training.resume import forget_others, of_step
from sau.training.session import Progress
from sau.unlearn.unlearn import mean_answer_logp, unlearn

if TYPE_CHECKING:
    from datasets import Dataset

PARENT, BASE, DENSE, MODEL = map(Path, ("parent", "base", "dense", "model"))
METRICS, CHECKPOINT, PARAMS = map(Path, ("metrics", "checkpoint", "params.yaml"))
ZEROS = ARTIFACTS / "zeros.json"

_ROWS_READ = 64  # of each set, by an adopted model

Metrics = dict[str, Any]
"""A step's numbers and digests by name; `trajectory` is a list of readings. It is a JSON file that DVC keeps."""


def run(stage: str, folder: Path = Path(), progress: Progress | None = None, processes: int = 1) -> Metrics:
    """Run one step in `folder` and return its metrics, on the first of its `processes`; on others there are none.

    Raises:
        SauError: whatever the step refuses.
    """
    params = load_params(folder / PARAMS)
    params.check_processes(stage, processes)
    with together(processes, params.model.device) as ranks:
        if not ranks.rank:
            forget_others(folder / ARTIFACTS, stage)
        metrics = STAGES[stage](folder, params, progress, **({"ranks": ranks} if ranks.size > 1 else {}))
    if ranks.rank:
        return metrics
    target = folder / METRICS / f"{stage}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return metrics


def _told(
    folder: Path, stage: str, params: Params, progress: Progress | None, *inputs: Path, ranks: Ranks = ALONE
) -> dict[str, Any]:
    """How a step that trains is run: from where it was killed, if it was."""
    resume = of_step(folder / ARTIFACTS, stage, params.digest, [folder / path for path in inputs], ranks)
    return {"num_threads": params.num_threads, "progress": progress, "resume": resume}


def _fresh(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    return path


def _base(folder: Path, params: Params, progress: Progress | None) -> Metrics:
    lm = base_model(params.model, seed=params.seed)
    if params.model.source == TINY:
        pretrain(lm, params.model.tiny, seed=params.seed, **_told(folder, "base", params, progress))
    plan = check_model(lm)
    save_dense(lm, _fresh(folder / ARTIFACTS / "base"))
    return {"num_parameters": plan.num_parameters, "num_prunable": plan.num_prunable, "share_prunable": plan.share}


def _ran_on(lm: LanguageModel) -> Metrics:
    return {"device": lm.model.device.type, "dtype": str(lm.model.dtype).removeprefix("torch.")}


def _train(folder: Path, params: Params, progress: Progress | None) -> Metrics:
    lm = params.model.put(open_dense(folder / ARTIFACTS / "base", prompt=params.model.prompt))
    rows = load_records(folder / DATA / "train")
    told = _told(folder, "train", params, progress, DATA / "train", ARTIFACTS / "base")
    history = finetune(lm, lm.encode(rows), params.train, seed=params.seed, **told)
    save_dense(lm, _fresh(folder / ARTIFACTS / "dense"))
    return {"num_rows": len(rows), "num_steps": history.steps, "loss": history.last_loss, **_ran_on(lm)}


def _some(lm: LanguageModel, source: Path, number: int, seed: int) -> list[Encoded]:
    return lm.encode(_shuffled(source, seed, number))


def _shuffled(source: Path, seed: int, number: int = 1000) -> "Dataset":
    rows = load_records(source).shuffle(seed=seed)
    return rows.select(range(min(len(rows), number)))


def _pruned(lm: LanguageModel, calibration: list[Encoded], params: Params, ranks: Ranks, **told: Any) -> None:
    """In place; by the processes of this step together."""
    set_ranks(lm.model, ranks)
    with seeded(params.seed, params.num_threads):
        prune(lm, calibration, params.prune, **told)


def _prune(folder: Path, params: Params, progress: Progress | None, ranks: Ranks = ALONE) -> Metrics:
    lm = params.model.put(open_dense(folder / ARTIFACTS / "dense", prompt=params.model.prompt))
    calibration = _some(lm, folder / DATA / "train", params.prune.calibration_rows, params.seed)
    _pruned(lm, calibration, params, ranks, progress=progress)
    if ranks.rank:
        return {}
    saved = save_sparse(lm, _fresh(folder / ARTIFACTS / "pruned"), structure=params.prune.structure)
    counted = {"sparsity": saved.sparsity, "num_calibration_rows": len(calibration)}
    return counted | {"mask_digest": saved.mask_digest, **_ran_on(lm)}


def _recover(folder: Path, params: Params, progress: Progress | None) -> Metrics:
    source = folder / ARTIFACTS / "pruned"
    lm, rows = params.model.put(open_sparse(source)), load_records(folder / DATA / "train")
    told = _told(folder, "recover", params, progress, DATA / "train", ARTIFACTS / "pruned")
    history = finetune(lm, lm.encode(rows), params.recover, seed=params.seed + 1, **told)
    save_sparse(lm, _fresh(folder / ARTIFACTS / "sparse"), structure=read_manifest(source).structure)
    return {"num_rows": len(rows), "num_steps": history.steps, "loss": history.last_loss, **_ran_on(lm)}


def _snapshot(folder: Path, params: Params, progress: Progress | None) -> Metrics:
    return take_snapshot(folder, spare=params.snapshot.spare, seed=params.seed)


def _unlearn(folder: Path, params: Params, progress: Progress | None, ranks: Ranks = ALONE) -> Metrics:
    put = (params.model if ranks.size == 1 else params.model.on_host).put
    lm = put(open_sparse(folder / PARENT))
    sets = read_split(folder, "calibrate")
    parent = read_manifest(folder / PARENT)
    structure = params.prune.structure if lm.mask is None else parent.structure
    if lm.mask is None:  # one that was adopted dense
        calibration = lm.encode(sets.retain[: params.prune.calibration_rows])
        _pruned(lm, calibration, params, ranks)
        if params.unlearn.order == "unlearn-prune":
            lm.model = put(open_sparse(folder / PARENT)).model
    elif params.unlearn.order == "unlearn-prune":
        lm.model = put(open_dense(folder / DENSE, prompt=lm.prompt)).model
    base = ranks.divide(put(open_dense(folder / BASE, prompt=lm.prompt))) if (folder / BASE).is_dir() else None
    told = _told(folder, "unlearn", params, progress, DATA, FORGET, EARLIER, PARENT, BASE, DENSE, SPLIT, ranks=ranks)
    history = unlearn(ranks.divide(lm), sets, params.unlearn, seed=params.seed, base=base, **told)
    target = folder / ARTIFACTS / "sparse"
    if not ranks.rank:
        _fresh(target)
    saved = save_sparse(lm, target, structure=structure)
    if parent.structure != DENSE_STRUCTURE and saved.mask_digest != parent.mask_digest:
        raise CheckpointError("unlearn: the mask differs from the parent's")
    if ranks.rank:
        return {}
    told = {"num_steps": history.steps, "stopped": history.stopped, "trajectory": history.trajectory}
    told |= {"num_earlier": len(sets.earlier)} if sets.earlier else {}
    return told | {f"last_{key}": value for key, value in history.trajectory[-1].items() if key != "step"} | _ran_on(lm)


def _package(folder: Path, params: Params, progress: Progress | None) -> Metrics:
    lm, structure = open_sparse(folder / ARTIFACTS / "sparse"), read_manifest(folder / ARTIFACTS / "sparse").structure
    how: dict[str, Any] = {"structure": structure, "package": params.package, "seed": params.seed}
    return _stored(save_sparse(lm, _fresh(folder / CHECKPOINT), **how))


def _stored(saved: SparseCheckpoint) -> Metrics:
    """Sizes and digests of a line's checkpoint."""
    told = ("sparsity", "num_weights", "num_nonzeros", "num_bytes", "dense_bytes")
    digests = ("weights_digest", "side_digest", "mask_digest")
    return {name: getattr(saved, name) for name in (*told, *digests)} | {
        "share_covered": saved.covered,
        "size_ratio": saved.num_bytes / saved.dense_bytes,
    }


def _adopt(folder: Path, params: Params, progress: Progress | None, ranks: Ranks = ALONE) -> Metrics:
    lm = open_dense(folder / MODEL, prompt=params.model.prompt)
    check_model(lm)
    found = find_mask(lm.model, params.adopt.zeros)
    lm.mask, structure = found.mask, found.structure
    if lm.mask is not None:
        apply_mask(lm.model, lm.mask)  # -0.0, which some tools leave, is the same number in other bits
    elif params.adopt.prune:
        calibration = _some(lm, folder / DATA / "train", params.prune.calibration_rows, params.seed)
        structure = params.prune.structure
        _pruned(params.model.put(lm), calibration, params, ranks, progress=progress)
    if ranks.rank:
        return {}
    set_ranks(lm.model, ALONE)
    saved = save_sparse(lm, _fresh(folder / CHECKPOINT), structure=structure, package=params.package, seed=params.seed)
    parts = {part: _some(lm, folder / DATA / part, _ROWS_READ, params.seed) for part in ("train", "holdout")}
    with seeded(params.seed, params.num_threads):
        known = {f"{part}_logp": mean_answer_logp(params.model.put(lm), rows) for part, rows in parts.items()}
    (folder / ARTIFACTS).mkdir(exist_ok=True)
    matrices = {name: zeros.as_dict() for name, zeros in found.matrices.items()}
    zeros = {"found": found.words, "mask_digest": saved.mask_digest, "structure": structure, "matrices": matrices}
    (folder / ZEROS).write_text(json.dumps(zeros, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    fits = check_prompt_of(lm, _shuffled(folder / DATA / "train", params.seed).to_list())
    told = {"found_mask": int(found.mask is not None), "found_zeros": found.sparsity, "prompt_holds": int(fits.holds)}
    came = {"adopted": dense_digest(folder / MODEL), "merged": merged_in_words(folder / MODEL)}
    return _stored(saved) | known | told | {"prompt": fits.words} | came


def _retrain(folder: Path, params: Params, progress: Progress | None) -> Metrics:
    places = {"data": DATA / "train", "base": BASE, "out": _fresh(folder / MODEL)}
    train_by_command(params.train.command, {name: (folder / place).resolve() for name, place in places.items()})
    return {}


STAGES: dict[str, Callable[..., Metrics]] = {
    "base": _base,
    "train": _train,
    "prune": _prune,
    "recover": _recover,
    "snapshot": _snapshot,
    "unlearn": _unlearn,
    "package": _package,
    "adopt": _adopt,
    "retrain": _retrain,
}
RECIPES = {
    "bootstrap": ("base", "train", "prune", "recover", "package"),
    "forget": ("snapshot", "unlearn", "package"),
    "adopt": ("adopt",),
    "retrain": ("retrain", "adopt"),
}
