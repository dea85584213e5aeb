"""Where a training run stands, written aside now and then, so that one that was killed goes on bit-equal.

    <digest>.safetensors   weights that move, the optimizer's moments, torch's generators, and what else changes: of
                           several processes one file each, of its rows
    state.json             numbers, the digests of the files above in order of their rows and how many entries of each
                           tensor they have, and the digest of everything that went into the run

Each is written aside, forced to disk and renamed, state.json last: whenever a kill comes, one whole state is there. A
state of other inputs, or a damaged one, is passed over and the run begins anew. It may be read by other than as many
processes as have written it: each then takes its rows from whichever files they are in. Moments in eight bits are not.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sau.files import put
from sau.models.ranks import ALONE, Ranks
from sau.training.optimizer import SurvivorAdamW

EVERY_S = 30.0
"""A state is written so often; where writing one is slow, it takes a twentieth of the time at most."""

_NUMBERS, _FOLDER = "state.json", ".resume-"
_SHARE = 20
_GENERATORS, _SAME = "generators/", "objective/"
_BLOCKS = "blocks/"


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
        ranks: the processes that run it together: each writes what is its own, of one state for all.
    """

    def __init__(self, folder: Path, inputs: str, every_s: float | None = None, ranks: Ranks = ALONE) -> None:
        self.folder, self.inputs, self.ranks = folder, inputs, ranks
        self.every_s = EVERY_S if every_s is None else every_s
        self._begun = self._written = time.monotonic()
        self._cost_s = 0.0

    def within(self, name: str) -> "Resume":
        """The place of a run that is a part of this one."""
        return Resume(self.folder / name, f"{self.inputs}/{name}", self.every_s, self.ranks)

    def read(self, sizes: Mapping[str, int] | None = None) -> Standing | None:
        """The state of this very run, where there is one and it is whole: of this process's rows.

        Args:
            sizes: how many entries this process has of each tensor (`sizes_of`); needed where there are several, and
                as many as have not written the state.
        """
        of_all = self.ranks.merged({self.ranks.rank: dict(sizes or {})})
        found = self._read([of_all[rank] for rank in range(self.ranks.size)])
        there = self.ranks.merged({self.ranks.rank: found.numbers["step"] if found else None})
        return found if len({*there.values()}) == 1 else None

    def _read(self, sizes: Sequence[Mapping[str, int]]) -> Standing | None:
        try:
            numbers = json.loads((self.folder / _NUMBERS).read_text(encoding="utf-8"))
            if numbers.pop("inputs") != self.inputs:
                return None
            files, rows = (
                [self.folder / f"{digest}.safetensors" for digest in numbers.pop("digests")],
                numbers.pop("rows"),
            )
            if is_ours := len(files) == len(sizes):
                files = [files[self.ranks.rank]]
            if any(_sha256(file) != file.stem for file in files):
                return None
            return Standing(load_file(files[0]) if is_ours else _part(files, rows, self.ranks.rank, sizes), numbers)
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
            self._write(state())
            self._written = time.monotonic()
            self._cost_s = self._written - at

    def _write(self, state: Standing) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / f"tensors-{self.ranks.rank}.part"
        save_file({name: value.detach().cpu().contiguous() for name, value in state.tensors.items()}, aside)
        digest = _sha256(aside)
        put(aside, self.folder / f"{digest}.safetensors")
        rows = _lengths({n: x for n, x in state.tensors.items() if not n.startswith((_GENERATORS, _SAME))})
        of_all = [part for _, part in sorted(self.ranks.merged({self.ranks.rank: (digest, rows)}).items())]
        if self.ranks.rank:
            return
        digests = [digest for digest, _ in of_all]
        entries = {name: [rows.get(name, 0) for _, rows in of_all] for _, own in of_all for name in own}
        written = {**state.numbers, "inputs": self.inputs, "digests": digests, "rows": entries}
        aside = self.folder / "numbers.part"
        aside.write_text(json.dumps(written), encoding="utf-8")
        put(aside, self.folder / _NUMBERS)
        for before in self.folder.glob("*.safetensors"):  # none of a next state: that one begins with `agreed`
            if before.stem not in digests:
                before.unlink()


def _part(
    files: Sequence[Path], rows: Mapping[str, list[int]], rank: int, sizes: Sequence[Mapping[str, int]]
) -> dict[str, Tensor]:
    """One process's tensors of a state that other than as many have written.

    Args:
        rows: by tensor, how many entries each file has; what is not named is the same in all.
        sizes: by tensor, how many entries each process has; one alone has all.
    """
    if any(name.startswith(_BLOCKS) for name in rows):
        raise ValueError("moments in eight bits: blocks end where a process's numbers do")
    with ExitStack() as stack:
        parts = [stack.enter_context(safe_open(file, "pt")) for file in files]

        def own(name: str) -> Tensor:
            if name not in rows:  # more processes than generators: the first's once more
                whose = parts[rank % len(parts) if name.startswith(_GENERATORS) else 0]
                return whose.get_tensor(name).clone()
            total = sum(rows[name])
            ends = [*accumulate((of[name] for of in sizes), initial=0)] if len(sizes) > 1 else [0, total]
            if ends[-1] != total:
                raise ValueError(f"{name}: {total} entries, of {ends[-1]}")
            begin, end = ends[rank : rank + 2]
            starts = accumulate(rows[name], initial=0)
            return torch.cat(
                [
                    part.get_tensor(name)[max(begin - start, 0) : max(end - start, 0)]
                    for part, start in zip(parts, starts, strict=False)
                ]
            )

        return {name: own(name) for name in sorted(parts[0].keys())}


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


def forget_others(folder: Path, step: str) -> None:
    """Remove the states of the steps before: they are done."""
    for left in folder.glob(f"{_FOLDER}*"):
        if left.name != f"{_FOLDER}{step}":
            shutil.rmtree(left)


def _lengths(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: len(value) for name, value in tensors.items() if value.dim()}


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
        kind = "moments/" if len(moments) == 3 else _BLOCKS
        tensors |= {f"{kind}{name}/{i}": moment for i, moment in enumerate(moments)}
    for kind, values in more.items():
        tensors |= {f"{kind}/{name}": value for name, value in values.items()}
    tensors["generators/cpu"] = torch.get_rng_state()
    for i, state in enumerate(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ()):
        tensors[f"generators/cuda:{i}"] = state
    # Two names of one tensor would be refused, and what is read back is put into either.
    return Standing({name: value.clone() for name, value in tensors.items()}, numbers)


def sizes_of(
    parameters: Mapping[str, Tensor], optimizer: SurvivorAdamW, **more: Mapping[str, Tensor]
) -> dict[str, int]:
    """How many entries (rows, or survivors) this process has of each tensor of `standing`; see there."""
    kinds = {"weights": _lengths(parameters)} | {kind: _lengths(values) for kind, values in more.items()}
    moved = _lengths(optimizer.dense) | {layer.name: layer.num_survivors for layer in optimizer.layers}
    kinds["moments"] = {f"{name}/{i}": size for name, size in moved.items() for i in range(2)}
    return {f"{kind}/{name}": size for kind, sizes in kinds.items() for name, size in sizes.items()}


@torch.no_grad()
def put_back(found: Standing, parameters: Mapping[str, Tensor], optimizer: SurvivorAdamW) -> None:
    """Weights, moments and torch's generators as they stood."""
    for name, value in found.below("weights").items():
        parameters[name].copy_(value)
    optimizer.moments.clear()
    for kind, number in (("moments", 3), (_BLOCKS.removesuffix("/"), 5)):
        moments = found.below(kind)
        for name in dict.fromkeys(key.rpartition("/")[0] for key in moments):
            device = optimizer.device_of(name)
            optimizer.moments[name] = tuple(moments[f"{name}/{i}"].to(device) for i in range(number))
    generators = found.below("generators")
    torch.set_rng_state(generators.pop("cpu"))
    for name, state in generators.items():
        torch.cuda.set_rng_state(state, name)
