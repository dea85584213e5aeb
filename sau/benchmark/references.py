"""The models that all cells of a seed share: made once and kept on disk, with what the references' readings are."""

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sau.benchmark.distance import REFERENCES, Reading, decoys, distances, mean_target, measure, read
from sau.benchmark.spec import DEMO, Sparsity, Spec
from sau.checkpoint.sparse import open_model, save_sparse
from sau.data.demo import ROWS_PER_SUBJECT, demo_rows
from sau.data.records import Row
from sau.data.sets import SETS, Sets
from sau.data.tofu import FORGET_ROWS, load_tofu
from sau.errors import ConfigError
from sau.models.batches import Encoded
from sau.models.dense import save_dense
from sau.models.language_model import LanguageModel, seeded
from sau.models.sources import TINY, ModelParams, base_model
from sau.params import Params
from sau.pruners import PruneParams, prune
from sau.training.finetune import adapted, finetune
from sau.training.pretrain import pretrain

_ADAPTED = "base-adapted"


def load_rows(spec: Spec, data: str, seed: int) -> Sets:
    """The rows of all three sets.

    Args:
        data: `demo` (invented people, others for each seed), or TOFU's folder or hub name.

    Raises:
        ConfigError: a number of forget people that TOFU has no split for.
        DataError: TOFU is not readable.
    """
    if data == DEMO:
        ids = (f"benchmark-{number:04d}" for number in itertools.count())
        counts = {"forget": spec.num_forget, "retain": spec.num_retain, "holdout": spec.num_holdout}
        people = {part: list(itertools.islice(ids, count)) for part, count in counts.items()}
        forget, retain, holdout = ([row for who in people[s] for row in demo_rows(who, seed=seed)] for s in SETS)
        return Sets(forget, retain, holdout)
    splits = {rows // ROWS_PER_SUBJECT: name for name, rows in FORGET_ROWS.items()}
    if spec.num_forget not in splits:
        raise ConfigError(f"num_forget {spec.num_forget}: TOFU has splits of {', '.join(map(str, splits))} people")
    train, holdout = load_tofu(
        data,
        forget=splits[spec.num_forget],
        num_retain=spec.num_retain * ROWS_PER_SUBJECT,
        num_holdout=spec.num_holdout * ROWS_PER_SUBJECT,
    )
    num_forget = spec.num_forget * ROWS_PER_SUBJECT
    return Sets(train[:num_forget], train[num_forget:], holdout)


def prepare(
    spec: Spec, data: str, seed: int, folder: Path, conditions: Sequence[tuple[str, Sparsity]]
) -> list[dict[str, Any]]:
    """Make the models that a seed's cells share, where `folder` has none yet, and read the references.

    Args:
        conditions: the (pruner, sparsity) to read; sparsity 0 stands for the dense models.

    Returns:
        For every condition one row each for original (knows the forget rows), retrained, and
        retrained-again (the same with rows in another order: how near another run of retraining itself comes).
    """
    params, rows = spec.params, load_rows(spec, data, seed)
    with seeded(seed, params.num_threads):
        _shared(folder, "base", params, partial(_base, params, seed))
        _shared(folder, _ADAPTED, params, partial(_adapted, folder, params, rows, seed))
        for name in REFERENCES:
            _shared(folder, name, params, partial(_trained, folder, name, params, rows, seed))
        references = []
        for pruner, sparsity in conditions:
            readings, ranks = known(folder, spec, rows, pruner, sparsity, seed)
            target = mean_target(readings, ranks)
            for name, reading in readings.items():
                where: dict[str, Any] = {"reference": name, "pruner": pruner, "sparsity": sparsity, "seed": seed}
                found = distances(reading, ranks[name], before=readings["original"], target=target)
                references.append(where | reading.numbers() | found)
    return references


def known(
    folder: Path, spec: Spec, rows: Sets, pruner: str, sparsity: Sparsity, seed: int
) -> tuple[dict[str, Reading], dict[str, float]]:
    """The references' readings and places among decoys, by name; taken once and kept beside the models."""
    file = folder / f"{_condition_name(pruner, sparsity)}.json"
    if not file.exists():
        models = {name: reference(folder, name, spec, rows, pruner, sparsity, seed) for name in REFERENCES}
        sets, hidden = encoded(models["original"], rows), decoys(models["original"], rows, seed)
        found = {name: vars(measure(read(lm, sets))) | {"place": hidden.place(lm)} for name, lm in models.items()}
        unfinished = file.with_suffix(".part")
        unfinished.write_text(json.dumps(found, default=np.ndarray.tolist))
        unfinished.rename(file)
    found = json.loads(file.read_text())
    ranks = {name: numbers.pop("place") for name, numbers in found.items()}
    readings = {
        name: Reading(**numbers | {"forget_prob_N": np.array(numbers["forget_prob_N"])})
        for name, numbers in found.items()
    }
    return readings, ranks


def _condition_name(pruner: str, sparsity: Sparsity) -> str:
    return f"{pruner}-{str(sparsity).replace(':', '-')}"


def _shared(folder: Path, name: str, params: Params, make: Callable[[], LanguageModel]) -> LanguageModel:
    """The model stored under a name, made first where there is none; on the accelerator where there is one."""
    path = folder / name
    if not path.exists():
        lm, unfinished = make(), folder / f"{name}.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        save_sparse(lm, unfinished, structure="unstructured") if lm.mask else save_dense(lm, unfinished)
        unfinished.rename(path)
    return params.model.put(open_model(path, prompt=params.model.prompt))


def _base(params: Params, seed: int) -> LanguageModel:
    lm = base_model(params.model, seed=seed)
    if params.model.source == TINY:
        pretrain(lm, params.model.tiny, seed=seed)
    return lm


def _adapted(folder: Path, params: Params, rows: Sets, seed: int) -> LanguageModel:
    """What `unlearn` would make of the base model each time anew; the base model itself where it does not adapt."""
    lm = params.model.put(open_model(folder / "base", prompt=params.model.prompt))
    return adapted(lm, lm.encode(rows.retain), params.unlearn.adapt, seed=seed) if params.unlearn.adapt else lm


def _train_rows(name: str, rows: Sets) -> Sequence[Row]:
    return [*rows.forget, *rows.retain] if name == "original" else rows.retain


def _train_seed(name: str, seed: int) -> int:
    return seed + 1_000_000 * (name == "retrained-again")


def _trained(folder: Path, name: str, params: Params, rows: Sets, seed: int) -> LanguageModel:
    lm = params.model.put(open_model(folder / "base", prompt=params.model.prompt))
    finetune(lm, lm.encode(_train_rows(name, rows)), params.train, seed=_train_seed(name, seed))
    return lm


def reference(
    folder: Path, name: str, spec: Spec, rows: Sets, pruner: str, sparsity: Sparsity, seed: int
) -> LanguageModel:
    """A trained model, pruned and recovered on what it was trained on; the dense one at sparsity 0."""
    if sparsity == 0:
        return spec.params.model.put(open_model(folder / name, prompt=spec.params.model.prompt))

    def make() -> LanguageModel:
        lm = spec.params.model.put(open_model(folder / name, prompt=spec.params.model.prompt))
        prune(lm, calibration(lm, rows, spec), prune_params(spec, pruner, sparsity))
        finetune(lm, lm.encode(_train_rows(name, rows)), spec.params.recover, seed=_train_seed(name, seed) + 1)
        return lm

    return _shared(folder, f"{name}-{_condition_name(pruner, sparsity)}", spec.params, make)


def prune_params(spec: Spec, pruner: str, sparsity: Sparsity) -> PruneParams:
    """How a condition of the grid is pruned; 2:4 is a structure of sparsity 0.5."""
    pattern = {"structure": sparsity, "sparsity": 0.5} if isinstance(sparsity, str) else {"sparsity": sparsity}
    return PruneParams.model_validate(
        spec.params.prune.model_dump() | {"structure": "unstructured", "pruner": pruner} | pattern
    )


def calibration(lm: LanguageModel, rows: Sets, spec: Spec) -> list[Encoded]:
    """Retain rows only: the mask must not be fitted on what is to be forgotten."""
    return lm.encode(rows.retain[: spec.params.prune.calibration_rows])


def encoded(lm: LanguageModel, rows: Sets) -> dict[str, list[Encoded]]:
    """The rows of each set as token sequences."""
    return {part: lm.encode(some) for part, some in rows.items()}


def adapted_base(folder: Path, params: ModelParams) -> LanguageModel:
    """The base model as `prepare` has adapted it to the retain rows."""
    return params.put(open_model(folder / _ADAPTED, prompt=params.prompt))
