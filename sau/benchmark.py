"""The benchmark of Sparsity-Aware Unlearning against its rivals: the grid, its cells, and distances to retraining.

A cell is one method at one place of the grid with one seed. All methods of a place start from the same model, see the
same rows in the same order, and have the same budget: every learning rate of one list, looked at after the same
steps. Each look turns a copy of the model into the SPARSE model that would be shipped and measures that. The cell's
result is the look that a user would choose, who has no retrained model: stopping and learning rate are chosen alike for
everyone, by the same rows. What the choice would be with the retrained model in hand is kept beside it (`informed`).

Orders
    prune-unlearn   start: the sparse model in production (trained, pruned, recovered).
    unlearn-prune   start: the dense model; it is pruned after unlearning and then recovered on the retain rows.
Methods
    none, importance, ...   updates of survivors only, with or without redistribution. In unlearn-prune the future
                            mask is known in advance: survivors move, the other weights take part unmoved until they go.
    unmasked-same-mask      every weight moves; then the same mask is laid on.
    unmasked-new-mask       every weight moves; then the model is pruned anew.
    dense                   sparsity 0: ordinary unlearning, never pruned.
Reference: the retrained model goes the same way (train, prune, recover) without the forget rows. Two of them, with rows
in different orders, are averaged: where one retraining ends is partly luck.
"""

import copy
import hashlib
import itertools
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from sau.checkpoint import open_model, save_sparse
from sau.data.demo import ROWS_PER_SUBJECT, demo_rows
from sau.data.records import Row
from sau.data.tofu import FORGET_ROWS, load_tofu
from sau.errors import ConfigError, DataError, DivergedError
from sau.models import LanguageModel, base_model, save_dense, seeded
from sau.params import TINY, FinetuneParams, Params, PruneParams, merge, read_yaml
from sau.registry import checked
from sau.sparsity.mask import apply_mask, future_mask
from sau.sparsity.pruners import prune
from sau.text import Encoded, answer_logps
from sau.unlearn.loop import adapted, finetune, unlearn
from sau.verify.checks.decoy_rank import place as place_among_decoys
from sau.verify.decoys import find_secrets
from sau.verify.readings import sum_logps
from sau.verify.stats import auc

Order = Literal["prune-unlearn", "unlearn-prune"]
Sparsity = Annotated[float, Field(ge=0, lt=1)] | Literal["2:4"]

DEMO = "demo"
DENSE, MASK_ONLY, SAME_MASK, NEW_MASK = "dense", "none", "unmasked-same-mask", "unmasked-new-mask"
RIVALS = (SAME_MASK, NEW_MASK)
REFERENCES = ("original", "retrained", "retrained-again")
ADAPTED = "base-adapted"
UTILITY_FLOOR = 0.9
NUM_DECOYS, MAX_DECOY_RECORDS = 19, 40
NOWHERE = "none"  # the pruner and the order of what is never pruned


class Spec(BaseModel):
    """One size of the benchmark: everything that changes a number in it.

    Attributes:
        params: of every model: how it is made, trained, pruned and recovered. Its `unlearn` section is what the
            objectives are laid over; learning rate, steps and stop rule are the benchmark's own, and the base model is
            adapted once for all.
        num_forget, num_retain, num_holdout: people, of 20 rows each.
        objectives: name -> parameters of `unlearn`, the same for every method.
        redistributions: name -> a redistribution: the methods that move survivors only. `RIVALS` come on top.
        lrs: learning rates that every method tries.
        looks: optimizer steps after which every method is measured; the last ends a run.
        num_seeds: each seed is another draw of people, initial weights and order of rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    params: Params
    num_forget: int = Field(ge=1, le=1000)
    num_retain: int = Field(ge=1, le=1000)
    num_holdout: int = Field(ge=1, le=1000)
    objectives: dict[str, dict[str, Any]]
    redistributions: dict[str, dict[str, Any]]
    pruners: tuple[str, ...]
    sparsities: tuple[Sparsity, ...]
    orders: tuple[Order, ...]
    lrs: tuple[float, ...]
    looks: tuple[int, ...]
    num_seeds: int = Field(ge=1, le=100)


@dataclass(frozen=True)
class Cell:
    """One place of the grid: a method, where it is tried, and a seed."""

    objective: str
    redistribution: str
    pruner: str
    sparsity: Sparsity
    order: str
    seed: int

    @property
    def id(self) -> str:
        return "/".join(str(value) for value in asdict(self).values())


@dataclass(frozen=True)
class Reading:
    """Of one model: mean over records of exp(mean answer-token log-probability), in [0, 1], for three sets; the chance
    that a forget row is likelier than a holdout row (AUC of the loss attack); and the forget rows one by one."""

    forget_prob: float
    retain_prob: float
    holdout_prob: float
    auc: float
    forget_prob_N: np.ndarray = field(repr=False)

    def numbers(self) -> dict[str, float]:
        """Without the single rows."""
        return {name: value for name, value in vars(self).items() if name != "forget_prob_N"}


@dataclass(frozen=True)
class Decoys:
    """Some forget rows' true answers, each followed by its decoys, as sequences of one list.

    Attributes:
        sequences: all of them.
        starts: where each row's own begin, but the first.
    """

    sequences: list[Encoded]
    starts: np.ndarray

    def place(self, lm: LanguageModel) -> float:
        """Mean share of decoys that are less likely than the true answer (`decoy_rank`); 1 where it always is first."""
        return float(
            np.mean([place_among_decoys(scores) for scores in np.split(sum_logps(lm, self.sequences), self.starts)])
        )


@dataclass(frozen=True)
class Target:
    """What is to be reached: the mean of the retrained models, and their place among decoys."""

    reading: Reading
    place: float


def load_spec(path: Path, defaults: Mapping[str, Any]) -> Spec:
    """A size's YAML file; its `params` are laid over `defaults`, a whole params.yaml.

    Raises:
        ConfigError: unreadable, unknown key, or value out of bounds.
    """
    fields = read_yaml(path)
    fields["params"] = merge(defaults, fields.get("params", {}))
    spec = checked(Spec, fields, path.name)
    if not spec.lrs or not spec.looks or list(spec.looks) != sorted(set(spec.looks)) or spec.looks[0] < 1:
        raise ConfigError(f"{path.name}: at least one learning rate, and looks that ascend from at least 1, are needed")
    return spec


def grid(spec: Spec) -> list[Cell]:
    """Every cell of a size, seed by seed. Sparsity 0 has one method and no order."""
    methods = [*spec.redistributions, *RIVALS]
    places: list[tuple[str, Sparsity, str, str]] = [
        (pruner, sparsity, order, method)
        for order, pruner, sparsity, method in itertools.product(spec.orders, spec.pruners, spec.sparsities, methods)
        if sparsity != 0
    ]
    if 0 in spec.sparsities:
        places.insert(0, (NOWHERE, 0.0, NOWHERE, DENSE))
    return [
        Cell(objective, method, pruner, sparsity, order, seed)
        for seed in range(spec.num_seeds)
        for pruner, sparsity, order, method in places
        for objective in spec.objectives
    ]


def side(redistribution: str) -> str:
    """Whose cell it is: `sau`, `mask-only` (survivors without redistribution), `rival`, or `dense`."""
    if redistribution in RIVALS:
        return "rival"
    return {DENSE: "dense", MASK_ONLY: "mask-only"}.get(redistribution, "sau")


def digest(spec: Spec, data: str) -> str:
    """SHA-256 of all that numbers depend on, apart from the code and the place in the grid."""
    fields = spec.model_dump(mode="json", exclude={"num_seeds"})
    return hashlib.sha256(json.dumps([fields, data], sort_keys=True).encode()).hexdigest()


def models_digest(spec: Spec, data: str) -> str:
    """SHA-256 of all that the shared models depend on, apart from the code and the seed."""
    people = {"num_forget", "num_retain", "num_holdout"}
    recipe = spec.params.model_dump(mode="json", include={"num_threads", "model", "train", "prune", "recover"})
    recipe["adapt"] = spec.params.model_dump(mode="json")["unlearn"]["adapt"]
    fields = [recipe, spec.model_dump(include=people), data]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


# -- distances ------------------------------------------------------------------------------------


def measure(lm: LanguageModel, sets: Mapping[str, list[Encoded]]) -> Reading:
    """Read a model on the encoded rows of `forget`, `retain` and `holdout`."""
    logps = {
        name: np.array([float(logp.mean()) for logp in answer_logps(lm.model, sequences)])
        for name, sequences in sets.items()
    }
    probs = {f"{name}_prob": float(np.exp(values).mean()) for name, values in logps.items()}
    return Reading(**probs, auc=auc(logps["forget"], logps["holdout"]), forget_prob_N=np.exp(logps["forget"]))


def decoys(lm: LanguageModel, rows: Mapping[str, list[Row]], seed: int) -> Decoys:
    """The decoys of at most MAX_DECOY_RECORDS forget rows, NUM_DECOYS at most for each (`sau.verify.decoys`)."""
    forget = rows["forget"]
    secrets = find_secrets(forget, rows["retain"], rows["holdout"], num_decoys=NUM_DECOYS, seed=seed)
    chosen = np.random.default_rng(seed).permutation(len(secrets))[:MAX_DECOY_RECORDS]
    answers = [(forget[s.row], (forget[s.row]["answer"], *s.decoys)) for s in (secrets[i] for i in sorted(chosen))]
    if not answers:
        raise DataError("no forget row has a decoy: the benchmark needs rows that ask several people the same")
    texts = [{**row, "answer": text} for row, its in answers for text in its]
    return Decoys(lm.encode(texts), np.cumsum([len(its) for _, its in answers])[:-1])


def mean_target(readings: Mapping[str, Reading], ranks: Mapping[str, float]) -> Target:
    """The mean of the retrained models among the references."""
    retrained = [name for name in REFERENCES if name != "original"]
    means = {
        key: np.mean([vars(readings[name])[key] for name in retrained], axis=0) for key in vars(readings["original"])
    }
    return Target(Reading(**means), float(np.mean([ranks[name] for name in retrained])))


def distances(reading: Reading, place: float | None, *, before: Reading, target: Target) -> dict[str, float]:
    """How far a sparse model is from the retrained ones; all numbers are shares, 0 is equal.

    average_distance: the mean of |answer probability on forget rows - retrained's| and |AUC - retrained's|.
    forget_distance: the mean of these two and |decoy place - retrained's|, which averages cannot see.
    record_distance: root mean square over forget rows of the difference in answer probability.
    utility: retain probability as a share of that of `before`, the sparse model before unlearning.
    utility_gap: how much less utility than the retrained model has; 0 where it is no less.
    distance_to_retrain: sqrt(forget_distance^2 + utility_gap^2), of average_distance where there is no `place`.
    """
    goal = target.reading
    gaps = [abs(reading.forget_prob - goal.forget_prob), abs(reading.auc - goal.auc)]
    result = {"average_distance": float(np.mean(gaps))}
    if place is not None:
        result |= {"decoy_place": place, "forget_distance": float(np.mean([*gaps, abs(place - target.place)]))}
    utility = reading.retain_prob / before.retain_prob
    gap = max(0.0, goal.retain_prob / before.retain_prob - utility)
    return result | {
        "record_distance": float(np.sqrt(np.mean((reading.forget_prob_N - goal.forget_prob_N) ** 2))),
        "utility": utility,
        "utility_gap": gap,
        "distance_to_retrain": math.hypot(result.get("forget_distance", result["average_distance"]), gap),
    }


def rank(reading: Reading, before: Reading) -> tuple[bool, float]:
    """How a user who has no retrained model orders looks, best first: those that keep UTILITY_FLOOR of the retain rows'
    answer probability, the nearest to making forget rows as likely as holdout rows before others; else the most useful.
    """
    utility = reading.retain_prob / before.retain_prob
    if utility < UTILITY_FLOOR:
        return True, -utility
    return False, abs(reading.forget_prob - reading.holdout_prob)


# -- shared work: made once per seed, kept on disk ------------------------------------------------------


def load_rows(spec: Spec, data: str, seed: int) -> dict[str, list[Row]]:
    """The rows of `forget`, `retain` and `holdout`.

    Args:
        data: `demo` (invented people, others for each seed), or TOFU's folder or hub name.

    Raises:
        ConfigError: a number of forget people that TOFU has no split for.
        DataError: TOFU is not readable.
    """
    if data == DEMO:
        ids = (f"benchmark-{number:04d}" for number in itertools.count())
        counts = {"forget": spec.num_forget, "retain": spec.num_retain, "holdout": spec.num_holdout}
        return {
            part: [row for subject in itertools.islice(ids, count) for row in demo_rows(subject, seed=seed)]
            for part, count in counts.items()
        }
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
    return {"forget": train[:num_forget], "retain": train[num_forget:], "holdout": holdout}


def prepare(
    spec: Spec, data: str, seed: int, folder: Path, places: Sequence[tuple[str, Sparsity]]
) -> list[dict[str, Any]]:
    """Make the models that a seed's cells share, where `folder` has none yet, and read the references.

    Args:
        places: the (pruner, sparsity) to read; sparsity 0 stands for the dense models.

    Returns:
        For every place one row each for original (knows the forget rows), retrained, and
        retrained-again (the same with rows in another order: how near another run of retraining itself comes).
    """
    params, rows = spec.params, load_rows(spec, data, seed)
    with seeded(seed, params.num_threads):
        _shared(folder, "base", params, partial(_base, params, seed))
        _shared(folder, ADAPTED, params, partial(_adapted, folder, params, rows, seed))
        for name in REFERENCES:
            _shared(folder, name, params, partial(_trained, folder, name, params, rows, seed))
        references = []
        for pruner, sparsity in places:
            readings, ranks = _known(folder, spec, rows, pruner, sparsity, seed)
            target = mean_target(readings, ranks)
            for name, reading in readings.items():
                where: dict[str, Any] = {"reference": name, "pruner": pruner, "sparsity": sparsity, "seed": seed}
                found = distances(reading, ranks[name], before=readings["original"], target=target)
                references.append(where | reading.numbers() | found)
    return references


def _known(
    folder: Path, spec: Spec, rows: Mapping[str, list[Row]], pruner: str, sparsity: Sparsity, seed: int
) -> tuple[dict[str, Reading], dict[str, float]]:
    """The references' readings and places among decoys, by name; taken once and kept beside the models."""
    file = folder / f"{_place_name(pruner, sparsity)}.json"
    if not file.exists():
        models = {name: reference(folder, name, spec, rows, pruner, sparsity, seed) for name in REFERENCES}
        sets, hidden = encoded(models["original"], rows), decoys(models["original"], rows, seed)
        found = {name: vars(measure(lm, sets)) | {"place": hidden.place(lm)} for name, lm in models.items()}
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


def _place_name(pruner: str, sparsity: Sparsity) -> str:
    return f"{pruner}-{str(sparsity).replace(':', '-')}"


def _shared(folder: Path, name: str, params: Params, make: Callable[[], LanguageModel]) -> LanguageModel:
    """The model stored under a name, made first where there is none; on the accelerator where there is one."""
    place = folder / name
    if not place.exists():
        lm, unfinished = make(), folder / f"{name}.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        save_sparse(lm, unfinished, structure="unstructured") if lm.mask else save_dense(lm, unfinished)
        unfinished.rename(place)
    return _to_device(open_model(place, prompt=params.model.prompt))


def _to_device(lm: LanguageModel) -> LanguageModel:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lm.model.to(device)
    lm.mask = lm.mask and {name: kept.to(device) for name, kept in lm.mask.items()}
    return lm


def _base(params: Params, seed: int) -> LanguageModel:
    lm = _to_device(base_model(params.model, seed=seed))
    if params.model.source == TINY:
        tiny = params.model.tiny
        rows = [row for number in range(tiny.pretrain_people) for row in demo_rows(f"pretrain-{number}", seed=0)]
        finetune(lm, lm.encode(rows), FinetuneParams(epochs=1, lr=tiny.pretrain_lr, batch_size=16), seed=seed)
    return lm


def _adapted(folder: Path, params: Params, rows: Mapping[str, list[Row]], seed: int) -> LanguageModel:
    """What `unlearn` would make of the base model each time anew; the base model itself where it does not adapt."""
    lm = _to_device(open_model(folder / "base", prompt=params.model.prompt))
    return adapted(lm, lm.encode(rows["retain"]), params.unlearn.adapt, seed=seed) if params.unlearn.adapt else lm


def _train_rows(name: str, rows: Mapping[str, list[Row]]) -> list[Row]:
    return [*rows["forget"], *rows["retain"]] if name == "original" else rows["retain"]


def _train_seed(name: str, seed: int) -> int:
    return seed + 1_000_000 * (name == "retrained-again")


def _trained(folder: Path, name: str, params: Params, rows: Mapping[str, list[Row]], seed: int) -> LanguageModel:
    lm = _to_device(open_model(folder / "base", prompt=params.model.prompt))
    finetune(lm, lm.encode(_train_rows(name, rows)), params.train, seed=_train_seed(name, seed))
    return lm


def reference(
    folder: Path, name: str, spec: Spec, rows: Mapping[str, list[Row]], pruner: str, sparsity: Sparsity, seed: int
) -> LanguageModel:
    """A trained model, pruned and recovered on what it was trained on; the dense one at sparsity 0."""
    if sparsity == 0:
        return _to_device(open_model(folder / name, prompt=spec.params.model.prompt))

    def make() -> LanguageModel:
        lm = _to_device(open_model(folder / name, prompt=spec.params.model.prompt))
        prune(lm, _calibration(lm, rows, spec), prune_params(spec, pruner, sparsity))
        finetune(lm, lm.encode(_train_rows(name, rows)), spec.params.recover, seed=_train_seed(name, seed) + 1)
        return lm

    return _shared(folder, f"{name}-{_place_name(pruner, sparsity)}", spec.params, make)


def prune_params(spec: Spec, pruner: str, sparsity: Sparsity) -> PruneParams:
    """How a place of the grid is pruned; 2:4 is a structure of sparsity 0.5."""
    pattern = {"structure": sparsity, "sparsity": 0.5} if isinstance(sparsity, str) else {"sparsity": sparsity}
    return PruneParams(**(spec.params.prune.model_dump() | {"structure": "unstructured", "pruner": pruner} | pattern))


def _calibration(lm: LanguageModel, rows: Mapping[str, list[Row]], spec: Spec) -> list[Encoded]:
    """Retain rows only: the mask must not be fitted on what is to be forgotten."""
    return lm.encode(rows["retain"][: spec.params.prune.calibration_rows])


def encoded(lm: LanguageModel, rows: Mapping[str, list[Row]]) -> dict[str, list[Encoded]]:
    return {part: lm.encode(its_rows) for part, its_rows in rows.items()}


# -- one cell -------------------------------------------------------------------------------------------


def run_cell(spec: Spec, data: str, cell: Cell, folder: Path) -> dict[str, Any]:
    """Run one method with every learning rate, from the models that `prepare` left in `folder`.

    Returns:
        The cell's fields; of the look that `rank` puts first `lr`, `steps`, the reading, the distances and
        `seconds` (of training alone up to it); `at_edge`, whether the learning rate
        is an end of the list or the steps are the last, so that more budget might have helped; `informed`, the
        same of the look nearest to the retrained models by averages and utility, which nobody in production can know;
        `cell_seconds`, of all runs with measuring; and `looks`, all of them, without places among decoys.

    Raises:
        DivergedError: with every learning rate, before the first look.
    """
    started = time.monotonic()
    rows = load_rows(spec, data, cell.seed)
    looks: list[dict[str, float]] = []
    best: dict[str, tuple[Any, dict[str, float]]] = {}
    with seeded(cell.seed, spec.params.num_threads):
        readings, ranks = _known(folder, spec, rows, cell.pruner, cell.sparsity, cell.seed)
        before, target = readings["original"], mean_target(readings, ranks)
        sparse = reference(folder, "original", spec, rows, cell.pruner, cell.sparsity, cell.seed)
        sets, hidden = encoded(sparse, rows), decoys(sparse, rows, cell.seed)
        for lr in spec.lrs:

            def look(steps: int, seconds: float, reading: Reading, shipped: LanguageModel, lr: float = lr) -> None:
                numbers = {"lr": lr, "steps": steps, "seconds": seconds, **reading.numbers()}
                looks.append(numbers | distances(reading, None, before=before, target=target))
                orders = {"chosen": rank(reading, before), "informed": looks[-1]["distance_to_retrain"]}
                better = [rule for rule, key in orders.items() if rule not in best or key < best[rule][0]]
                if better:
                    found = numbers | distances(reading, hidden.place(shipped), before=before, target=target)
                    found["at_edge"] = lr in (min(spec.lrs), max(spec.lrs)) or steps == spec.looks[-1]
                    best.update({rule: (orders[rule], found) for rule in better})

            trajectory(spec, cell, folder, rows, sets, sparse, lr, look)
    if not looks:
        raise DivergedError(f"cell {cell.id}: diverged before the first look with every learning rate")
    return {
        **asdict(cell),
        **best["chosen"][1],
        "informed": best["informed"][1],
        "cell_seconds": time.monotonic() - started,
        "looks": looks,
    }


def trajectory(
    spec: Spec,
    cell: Cell,
    folder: Path,
    rows: Mapping[str, list[Row]],
    sets: Mapping[str, list[Encoded]],
    sparse: LanguageModel,
    lr: float,
    on_look: Callable[[int, float, Reading, LanguageModel], None],
) -> None:
    """One run with one learning rate.

    Args:
        sparse: the sparse model before unlearning.
        on_look: is told at every look (steps, seconds of training alone, the reading of the sparse model that would be
            shipped, that model, which changes afterwards).
    """
    pruned_last = cell.order == "unlearn-prune"
    masked = cell.redistribution in spec.redistributions
    if pruned_last:
        lm = reference(folder, "original", spec, rows, NOWHERE, 0.0, cell.seed)
    else:
        lm = copy.deepcopy(sparse)
    mask = sparse.mask
    shipped = copy.deepcopy(lm)
    looking = 0.0
    started = time.monotonic()

    def look(step: int, _total: int, _values: dict[str, float]) -> None:
        nonlocal looking
        if step not in spec.looks:
            return
        seconds = time.monotonic() - started - looking
        shipped.model.load_state_dict(lm.model.state_dict())
        shipped.mask = None
        if mask is not None:
            if cell.redistribution == NEW_MASK:
                prune(shipped, _calibration(shipped, rows, spec), prune_params(spec, cell.pruner, cell.sparsity))
            else:
                apply_mask(shipped.model, mask)
                shipped.mask = mask
            if pruned_last:
                finetune(shipped, sets["retain"], spec.params.recover, seed=cell.seed + 1)
        on_look(step, seconds, measure(shipped, sets), shipped)
        looking = time.monotonic() - started - seconds

    params = checked(
        type(spec.params.unlearn),
        spec.params.unlearn.model_dump()
        | spec.objectives[cell.objective]
        | {
            "redistribution": spec.redistributions[cell.redistribution] if masked else MASK_ONLY,
            "lr": lr,
            "max_steps": spec.looks[-1],
            "stop": None,
            "adapt": None,  # done once for all
        },
        f"objective {cell.objective}",
    )
    lm.mask = mask if masked else None
    parts = (rows["forget"], rows["retain"], rows["holdout"])
    base = _to_device(open_model(folder / ADAPTED, prompt=spec.params.model.prompt))
    try:
        with future_mask(lm.model, mask) if masked and pruned_last and mask else nullcontext():
            unlearn(lm, *parts, params, seed=cell.seed, base=base, num_threads=spec.params.num_threads, progress=look)
    except DivergedError:
        pass  # the looks before it count


# -- who wins -------------------------------------------------------------------------------------------


def compare(cells: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The best of SAU, of mask-only and of the rivals per (pruner, sparsity, order), and the ratios of their distances.

    The best setup (objective, redistribution) of a side has the smallest distance_to_retrain, mean over seeds. For
    the ratio of a seed, each side's setup is chosen on the OTHER seeds, so that a side with more methods to choose
    from gains nothing by luck; with one seed it is chosen on that seed. A ratio below 1 is in favour of SAU.

    Returns:
        `sau`, `mask_only`, `rival`: the best setup with the mean, smallest and largest distance over seeds;
        `ratio`: SAU over rival, and SAU over mask-only, the geometric mean over seeds with the smallest and largest.
    """
    result: dict[str, list[dict[str, Any]]] = {"sau": [], "mask_only": [], "rival": [], "ratio": []}
    for place in dict.fromkeys((c["pruner"], c["sparsity"], c["order"]) for c in cells if c["sparsity"] != 0):
        where = dict(zip(("pruner", "sparsity", "order"), place, strict=True))
        here = [c for c in cells if all(c[key] == value for key, value in where.items())]
        sides = {name: [c for c in here if side(c["redistribution"]) == name] for name in ("sau", "mask-only", "rival")}
        for name, its_cells in sides.items():
            if its_cells:
                result[name.replace("-", "_")].append(where | _best(its_cells))
        ratios = {other: _ratios(sides["sau"], sides[other]) for other in ("rival", "mask-only")}
        if ratios["rival"]:
            result["ratio"].append(
                where
                | {"held_out": len({c["seed"] for c in here}) > 1}
                | _spread("ratio", ratios["rival"])
                | (_spread("ratio_to_mask_only", ratios["mask-only"]) if ratios["mask-only"] else {})
            )
    return result


def _setup(cell: Mapping[str, Any]) -> tuple[str, str]:
    return cell["objective"], cell["redistribution"]


def _mean_distances(cells: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """Setup -> mean distance over its seeds, for setups that have every seed that any has."""
    seeds = {c["seed"] for c in cells}
    by_setup: dict[tuple[str, str], dict[int, float]] = {}
    for c in cells:
        by_setup.setdefault(_setup(c), {})[c["seed"]] = c["distance_to_retrain"]
    return {setup: float(np.mean([*of.values()])) for setup, of in by_setup.items() if of.keys() == seeds}


def _best(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    means = _mean_distances(cells)
    setup = min(means, key=means.__getitem__)
    chosen = [c for c in cells if _setup(c) == setup]
    found = [c["distance_to_retrain"] for c in chosen]
    return {
        "objective": setup[0],
        "redistribution": setup[1],
        "distance_to_retrain": means[setup],
        "lowest": min(found),
        "highest": max(found),
        **{
            name: float(np.mean([c[name] for c in chosen]))
            for name in ("forget_distance", "record_distance", "decoy_place", "utility")
        },
    }


def _ratios(ours: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> list[float]:
    """One ratio of distances per seed that both sides have."""
    both = sorted({c["seed"] for c in ours} & {c["seed"] for c in others})
    return [_held_out(ours, seed) / max(_held_out(others, seed), 1e-6) for seed in both]


def _held_out(cells: Sequence[Mapping[str, Any]], seed: int) -> float:
    """The distance at a seed of the setup that is best on the other seeds."""
    here = {_setup(c): c["distance_to_retrain"] for c in cells if c["seed"] == seed}
    others = [c for c in cells if c["seed"] != seed and _setup(c) in here]
    means = _mean_distances(others) or here
    return here[min(means, key=means.__getitem__)]


def _spread(name: str, ratios: Sequence[float]) -> dict[str, float | list[float]]:
    logs = np.log(np.maximum(ratios, 1e-6))
    return {
        name: float(np.exp(logs.mean())),
        f"{name}_lowest": min(ratios),
        f"{name}_highest": max(ratios),
        f"{name}_per_seed": list(ratios),
    }
