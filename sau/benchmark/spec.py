"""The grid of a size: what is compared, where, and with which budget."""

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sau.config import checked, merge, read_yaml
from sau.errors import ConfigError
from sau.params import Params

Order = Literal["prune-unlearn", "unlearn-prune"]
Sparsity = Annotated[float, Field(ge=0, lt=1)] | Literal["2:4"]

DEMO = "demo"
DENSE, MASK_ONLY, SAME_MASK, NEW_MASK = "dense", "none", "unmasked-same-mask", "unmasked-new-mask"
RIVALS = (SAME_MASK, NEW_MASK)
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
        lrs: learning rates that every method tries, each falling linearly to 0 (`unlearn` without a stop rule).
        steps: optimizer steps of a run.
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
    steps: int = Field(ge=1, le=1_000_000)
    num_seeds: int = Field(ge=1, le=100)

    @property
    def shipped(self) -> tuple[str, str]:
        """Objective and redistribution that `params` gives the product, by name."""
        return self.params.unlearn.objective.name, self.params.unlearn.redistribution.name


@dataclass(frozen=True)
class Cell:
    """One method under one condition of the grid, with one seed."""

    objective: str
    redistribution: str
    pruner: str
    sparsity: Sparsity
    order: str
    seed: int

    @property
    def id(self) -> str:
        return "/".join(str(value) for value in asdict(self).values())


def load_spec(path: Path, defaults: Mapping[str, Any]) -> Spec:
    """A size's YAML file; its `params` are laid over `defaults`, a whole params.yaml.

    Raises:
        ConfigError: unreadable, unknown key, or value out of bounds.
    """
    fields = read_yaml(path)
    fields["params"] = merge(defaults, fields.get("params", {}))
    spec = checked(Spec, fields, path.name)
    if not spec.lrs:
        raise ConfigError(f"{path.name}: at least one learning rate is needed")
    return spec


def grid(spec: Spec) -> list[Cell]:
    """Every cell of a size, seed by seed. Sparsity 0 has one method and no order."""
    methods = [*spec.redistributions, *RIVALS]
    conditions: list[tuple[str, Sparsity, str, str]] = [
        (pruner, sparsity, order, method)
        for order, pruner, sparsity, method in itertools.product(spec.orders, spec.pruners, spec.sparsities, methods)
        if sparsity != 0
    ]
    if 0 in spec.sparsities:
        conditions.insert(0, (NOWHERE, 0.0, NOWHERE, DENSE))
    return [
        Cell(objective, method, pruner, sparsity, order, seed)
        for seed in range(spec.num_seeds)
        for pruner, sparsity, order, method in conditions
        for objective in spec.objectives
    ]


def side(redistribution: str) -> str:
    """Whose cell it is: `sau`, `mask-only` (survivors without redistribution), `rival`, or `dense`."""
    if redistribution in RIVALS:
        return "rival"
    return {DENSE: "dense", MASK_ONLY: "mask-only"}.get(redistribution, "sau")


def digest(spec: Spec, data: str, cell: Cell) -> str:
    """SHA-256 of all that a cell's numbers depend on, apart from the code: a grid may grow beside finished cells."""
    fields = spec.model_dump(mode="json", include={"params", "num_forget", "num_retain", "num_holdout", "lrs", "steps"})
    for name in ("objective", "redistribution", "order", "lr", "max_steps", "stop"):
        del fields["params"]["unlearn"][name]  # the cell's own instead
    method = [spec.objectives[cell.objective], spec.redistributions.get(cell.redistribution)]
    return hashlib.sha256(json.dumps([fields, method, asdict(cell), data], sort_keys=True).encode()).hexdigest()


def models_digest(spec: Spec, data: str) -> str:
    """SHA-256 of all that the shared models depend on, apart from the code and the seed."""
    people = {"num_forget", "num_retain", "num_holdout"}
    recipe = spec.params.model_dump(mode="json", include={"num_threads", "model", "train", "prune", "recover"})
    recipe["adapt"] = spec.params.model_dump(mode="json")["unlearn"]["adapt"]
    fields = [recipe, spec.model_dump(include=people), data]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
