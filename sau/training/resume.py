"""Where a training run stands, written aside now and then, so that one that was killed goes on bit-equal.

    <digest>.safetensors   weights that move, the optimizer's moments, torch's generators, and what else changes
    state.json             numbers, the digest of the file above, and the digest of everything that went into the run

Each is written aside, forced to disk and renamed, the second last: whenever a kill comes, one whole state is there. A
state of other inputs, or a damaged one, is passed over and the run begins anew.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sau.models.ranks import ALONE, Ranks
from sau.training.optimizer import SurvivorAdamW

EVERY_S = 30.0
"""A state is written so often; where writing one is slow, it takes a twentieth of the time at most."""

_NUMBERS, _FOLDER = "state.json", ".resume-"
_SHARE = 20
_ROWS = "rows"


@dataclass(frozen=True)
class Standing:
    """A state that was read: tensors and JSON values by name."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]

    def below(self, name: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `<name>/`, by what follows."""
        return {key.partition("/")[2]: value for key, value in self.tensors.items() if key.startswith(f"{name}/")}


class Resume:
    """The place where one run keeps its state.

    Args:
        folder: its own; made when there is something to write.
        inputs: a digest of everything that decides the run's result.
        every_s: how many seconds of work a kill may cost; 0: not a step.
        ranks: the processes that run it together: the first writes one state for all.
    """

    def __init__(self, folder: Path, inputs: str, every_s: float | None = None, ranks: Ranks = ALONE) -> None:
        self.folder, self.inputs, self.ranks = folder, inputs, ranks
        self.every_s = EVERY_S if every_s is None else every_s
        self._begun = self._written = time.monotonic()
        self._cost_s = 0.0

    def within(self, name: str) -> "Resume":
        """The place of a run that is a part of this one."""
        return Resume(self.folder / name, f"{self.inputs}/{name}", self.every_s, self.ranks)

    def read(self) -> Standing | None:
        """The state of this very run, where there is one and it is whole: of this process's rows."""
        found = self._read()
        found = found and _part(found, self.ranks)
        there = self.ranks.merged({self.ranks.rank: found.numbers["step"] if found else None})
        return found if len({*there.values()}) == 1 else None

    def _read(self) -> Standing | None:
        try:
            numbers = json.loads((self.folder / _NUMBERS).read_text(encoding="utf-8"))
            if numbers.pop("inputs") != self.inputs:
                return None
            digest = numbers.pop("digest")
            tensors = self.folder / f"{digest}.safetensors"
            return Standing(load_file(tensors), numbers) if _sha256(tensors) == digest else None
        except (OSError, ValueError, KeyError, SafetensorError):
            return None

    def offer(self, state: Callable[[], Standing], *, last: bool = False) -> None:
        """Write the state, if it is time to.

        Args:
            last: of a run that is over: written in any case where the run took long enough to be worth it, so that what
                comes after it may die too.
        """
        at = time.monotonic()
        wait_s = max(self.every_s, _SHARE * self._cost_s) if self.every_s else 0.0
        due = at - self._written >= wait_s or (last and at - self._begun >= self.every_s)
        if self.ranks.agreed(due):
            whole = state() if self.ranks.size == 1 else _gathered(state(), self.ranks)
            if self.ranks.rank == 0:
                self._write(whole)
            self._written = time.monotonic()
            self._cost_s = self._written - at

    def _write(self, state: Standing) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / "tensors.part"
        save_file({name: value.detach().cpu().contiguous() for name, value in state.tensors.items()}, aside)
        digest = _sha256(aside)
        _put(aside, self.folder / f"{digest}.safetensors")
        aside = self.folder / "numbers.part"
        aside.write_text(json.dumps({**state.numbers, "inputs": self.inputs, "digest": digest}), encoding="utf-8")
        _put(aside, self.folder / _NUMBERS)
        for before in self.folder.glob("*.safetensors"):
            if before.stem != digest:
                before.unlink()


def of_step(folder: Path, step: str, params_digest: str, inputs: Sequence[Path], ranks: Ranks = ALONE) -> Resume:
    """Where a step of the recipe keeps its state: good for the same inputs, parameters and code alone.

    Args:
        folder: of the step's outputs.
        inputs: files and folders; what is not there is no input.
    """
    code = sorted(Path(__file__).parents[1].rglob("*.py"))
    files = [file for path in inputs for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    whole = hashlib.sha256(f"{step} {params_digest} {torch.__version__}".encode())
    for file in (*code, *(file for file in files if file.is_file())):
        whole.update(f"{file.name} {_sha256(file)}".encode())
    return Resume(folder / f"{_FOLDER}{step}", whole.hexdigest(), ranks=ranks)


def _gathered(state: Standing, ranks: Ranks) -> Standing:
    """One state of those of all processes, in which what each has of rows (and its generators) lies in order of rank;
    what an objective remembers is the same everywhere."""
    tensors, rows = dict(state.tensors), {}
    for name, value in state.tensors.items():
        if value.dim() and not name.startswith("objective/"):
            tensors[name], rows[name] = ranks.gathered(value)
    return Standing(tensors, state.numbers | {_ROWS: rows})


def _part(state: Standing, ranks: Ranks) -> Standing | None:
    """The part of one process of a gathered state; None where it is one of other processes. One process alone goes on
    from what any number of them wrote."""
    rows: dict[str, list[int]] = state.numbers.get(_ROWS, {})
    written_by = max((len(sizes) for sizes in rows.values()), default=1)
    if ranks.size not in (1, written_by):
        return None
    parts = {  # as copies: a generator would read a view from where its memory begins
        name: value.split(rows[name])[ranks.rank].clone()
        for name, value in state.tensors.items()
        if name in rows and (ranks.size > 1 or name.startswith("generators/"))
    }
    return Standing(state.tensors | parts, {key: value for key, value in state.numbers.items() if key != _ROWS})


def forget_others(folder: Path, step: str) -> None:
    """Remove the states of the steps before: they are done."""
    for left in folder.glob(f"{_FOLDER}*"):
        if left.name != f"{_FOLDER}{step}":
            shutil.rmtree(left)


def _put(aside: Path, target: Path) -> None:
    """Rename a file that is on disk to its name, and have the name on disk too."""
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def standing(
    parameters: Mapping[str, Tensor], optimizer: SurvivorAdamW, numbers: dict[str, Any], **more: Mapping[str, Tensor]
) -> Standing:
    """The state of a run.

    Args:
        parameters: what moves.
        more: other tensors, by kind and name.
    """
    tensors = {f"weights/{name}": value for name, value in parameters.items()}
    for name, moments in optimizer.moments.items():
        tensors |= {f"moments/{name}/{i}": moment for i, moment in enumerate(moments)}
    for kind, values in more.items():
        tensors |= {f"{kind}/{name}": value for name, value in values.items()}
    tensors["generators/cpu"] = torch.get_rng_state()
    for i, state in enumerate(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ()):
        tensors[f"generators/cuda:{i}"] = state
    # Two names of one tensor would be refused, and what is read back is put into either.
    return Standing({name: value.clone() for name, value in tensors.items()}, numbers)


@torch.no_grad()
def put_back(found: Standing, parameters: Mapping[str, Tensor], optimizer: SurvivorAdamW) -> None:
    """Weights, moments and torch's generators as they stood."""
    for name, value in found.below("weights").items():
        parameters[name].copy_(value)
    moments = found.below("moments")
    optimizer.moments.clear()
    for name in dict.fromkeys(key.rpartition("/")[0] for key in moments):
        device = optimizer.device_of(name)
        mean, square, count = (moments[f"{name}/{i}"].to(device) for i in range(3))
        optimizer.moments[name] = (mean, square, count)
    generators = found.below("generators")
    torch.set_rng_state(generators.pop("cpu"))
    for name, state in generators.items():
        torch.cuda.set_rng_state(state, name)
