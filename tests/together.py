"""What one process does, and several together; cases of unlearning also by `torchrun -m tests.together FOLDER CASE...`.

Each case leaves <FOLDER>/<case>-<processes>.pt: trajectory, weights, mask digest, statistics, bytes of each process.
"""

import contextlib
import copy
import gc
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from sau.checkpoint.sparse import open_sparse, save_sparse
from sau.data.demo import demo_rows
from sau.data.sets import Sets
from sau.mask import mask_digest
from sau.models.language_model import LanguageModel
from sau.models.ranks import Ranks, ranks_of, together
from sau.models.sources import ModelParams, TinyParams, base_model
from sau.pruners import PruneParams, prune
from sau.training.finetune import FinetuneParams, finetune
from sau.training.optimizer import SurvivorAdamW
from sau.training.resume import Resume
from sau.unlearn.objectives.base import Setting
from sau.unlearn.redistribution.least_squares import input_moments
from sau.unlearn.unlearn import UnlearnParams, unlearn


def several(
    processes: int, work: Callable[[Ranks], Any], folder: Path, *, ends: Sequence[int] = (), limit_s: float = 120
) -> list[Any]:
    """What a function returns on each of so many forks of this process that are together; nothing is imported anew.

    Args:
        ends: the exit codes, where not all end well; nothing is returned then.
    """
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    folder.mkdir(exist_ok=True)
    forks = [
        get_context("fork").Process(target=_one_of, args=(rank, processes, port, work, folder))
        for rank in range(processes)
    ]
    for fork in forks:
        fork.start()
    for fork in forks:
        fork.join(limit_s)
    assert [fork.exitcode for fork in forks] == list(ends or [0] * processes)
    return [] if any(ends) else [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(processes)]


def _one_of(rank: int, processes: int, port: int, work: Callable[[Ranks], Any], folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(processes)}
    torch.set_num_threads(1)
    with together(processes, "cpu") as ranks:
        torch.save(work(ranks), folder / f"{rank}.pt")


SETS = Sets(demo_rows("forget", seed=1)[:7], demo_rows("retain", seed=1), demo_rows("holdout", seed=1)[:7],
            earlier=demo_rows("earlier", seed=1)[:7])  # fmt: skip
ADAPT = {"epochs": 1, "lr": 1e-3, "batch_size": 4}
STOP = {"eval_every": 1, "margin_nats": -10.0, "utility_floor": 0.5, "patience": 1}
"""A goal out of reach: learning rate and weights are changed again and again."""


@dataclass(frozen=True)
class Case:
    """What is unlearned, and how; `shape` is laid over the model's config."""

    params: dict[str, Any] = field(default_factory=dict)
    shape: dict[str, Any] = field(default_factory=dict)
    structure: str = "unstructured"
    has_base: bool = False
    micro_batch: int | None = None
    gradient_checkpointing: bool = False
    dtype: torch.dtype = torch.float32
    is_weighed: bool = False


UNEVEN = {"intermediate_size": 65, "num_key_value_heads": 1}
EMPTY = {"intermediate_size": 1}
CASES: dict[str, Case] = {
    "usual": Case({"objective": "calibrated", "stop": STOP, "adapt": ADAPT, "lr": 3e-4}, UNEVEN, has_base=True),
    "empty": Case({"redistribution": "natural"}, EMPTY),
    "tied": Case({"freeze_embeddings": False}, {"tie_word_embeddings": True}),
    "n-of-m": Case({"redistribution": {"name": "importance", "project": True}}, structure="2:4"),
    "compensated": Case({"redistribution": "compensated", "freeze_embeddings": False}, UNEVEN),
    "clipped": Case({"max_grad_norm": 1e-3}, UNEVEN),
    "micro": Case({"batch_size": 5}, micro_batch=2, gradient_checkpointing=True),
    "pdu": Case({"objective": {"name": "pdu", "eps": 1.0}}),
    "rmu": Case({"objective": "rmu"}),
    "grad_diff": Case({"objective": {"name": "grad_diff", "retain": "kl"}}, UNEVEN),
    "idk_dpo": Case({"objective": "idk_dpo"}),
    "undial": Case({"objective": "undial"}, {"tie_word_embeddings": True}),
    "rows": Case({"redistribution": "none", "freeze_embeddings": False}, {"intermediate_size": 512}, is_weighed=True),
    "bfloat16": Case({}, dtype=torch.bfloat16),
}


def started(case: Case) -> tuple[LanguageModel, LanguageModel | None]:
    """The model, a little trained and pruned, and its base; the same on every process."""
    tiny = TinyParams(vocab_size=320, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2)
    lm = base_model(ModelParams(tiny=tiny), seed=0)
    config = copy.deepcopy(lm.model.config)
    for name, value in case.shape.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    lm.model = LlamaForCausalLM(config).eval()
    base = copy.deepcopy(lm) if case.has_base else None
    finetune(lm, lm.encode(SETS.forget + SETS.retain), FinetuneParams(epochs=8, lr=5e-3), seed=0, num_threads=1)
    prune(lm, lm.encode(SETS.retain), PruneParams(pruner="wanda", structure=case.structure))
    lm.micro_batch, lm.gradient_checkpointing = case.micro_batch, case.gradient_checkpointing
    lm.model.to(case.dtype)
    return lm, base


def params_of(case: Case, processes: int) -> UnlearnParams:
    usual = {"objective": "npo", "redistribution": "natural", "lr": 1e-4, "max_steps": 4, "batch_size": 3, "stop": None}
    return UnlearnParams(**usual | case.params, processes=processes)


def held_bytes() -> int:
    """Bytes of all tensors in this process: weights, gradients, moments, mask."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor) and not hasattr(x, "to_local")]
    memories = [x.untyped_storage() for x in tensors if not x.is_meta]
    return sum({memory.data_ptr(): memory.nbytes() for memory in memories}.values())


def statistics(lm: LanguageModel) -> dict[str, torch.Tensor]:
    """What `natural` knows of each matrix's inputs."""
    torch.manual_seed(0)
    ranks = ranks_of(lm.model)
    layers = SurvivorAdamW(ranks.own(lm.model).items(), lm.mask or {}, ranks=ranks).layers
    setting = Setting(lm, list(SETS.forget), lm.encode(SETS.forget), lm.encode(SETS.retain), [])
    return input_moments(layers, setting, num_rows=20, damping=0.01)


def ran(case: Case, ranks: Ranks, resume: Resume | None = None, stop: Callable[[int], None] | None = None) -> Any:
    """What became of the case; on the first process.

    Args:
        stop: called after each step.
    """
    held = 0

    def progress(step: int, total: int, values: dict[str, float]) -> None:
        nonlocal held
        held = max(held, held_bytes() if case.is_weighed and step == 2 else 0)
        if stop:
            stop(step)

    lm, base = started(case)
    base = base and ranks.divide(base)
    lm = ranks.divide(lm)
    known = {} if case.is_weighed else {name: value.cpu() for name, value in statistics(lm).items()}
    history = unlearn(
        lm, SETS, params_of(case, ranks.size), seed=0, num_threads=1, base=base, resume=resume, progress=progress
    )
    held_by = ranks.merged({ranks.rank: held})
    known = {name: value for part in ranks.merged({ranks.rank: known}).values() for name, value in part.items()}
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(ranks.agreed(folder)) / "stored"
        save_sparse(lm, stored, structure=case.structure)
        lm = None if ranks.rank else open_sparse(stored)
        ranks.agreed(None)
    if lm is None:
        return None
    weights = {name: parameter.detach().clone() for name, parameter in lm.model.named_parameters()}
    return {
        "trajectory": history.trajectory, "steps": history.steps, "weights": weights, "held": [*held_by.values()],
        "mask": mask_digest(lm.mask), "statistics": known, "sharding": "sau.models.sharding" in sys.modules,
    }  # fmt: skip


class Killed(Exception):
    """Stands for the end of the processes."""


def stopped_after(last: int) -> Callable[[int], None]:
    """What ends a run after a step."""

    def stop(step: int) -> None:
        if step == last:
            raise Killed

    return stop


def resumed(folder: Path, ranks: Ranks) -> Any:
    """The usual case, killed after its third step and gone on with; its state is left as it was after the second."""
    place = Resume(folder / "resume", "these", every_s=0.0, ranks=ranks)
    with contextlib.suppress(Killed):
        ran(CASES["usual"], ranks, place, stopped_after(3))
    if not ranks.rank:
        shutil.copytree(place.folder, folder / "left")
    return ran(CASES["usual"], ranks, place)


def kills_one(step: int) -> None:
    """The second of the processes dies in the middle of the run."""
    if step == 2 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run the named cases in this process, and with those beside it."""
    folder, processes = Path(sys.argv[1]), int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(1)
    with together(processes, "cpu") as ranks:
        for name in sys.argv[2:]:
            if name == "resumed":
                found = resumed(folder, ranks)
            else:
                case, stop = ("clipped", kills_one) if name == "killed" else (name, None)
                found = ran(CASES[case], ranks, stop=stop)
            if not ranks.rank:
                torch.save(found, folder / f"{name}-{processes}.pt")
            del found  # nothing of it is to be weighed with the next


if __name__ == "__main__":
    main()
