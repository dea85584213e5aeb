"""params.yaml as one frozen model: everything that changes a number in the result, and nothing else."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import Field

from sau.checkpoint.sparse import PackageParams
from sau.config import Section, checked, read_yaml
from sau.errors import ConfigError
from sau.models.sources import ModelParams
from sau.pruners import PruneParams
from sau.pruners.found import AdoptParams
from sau.training.finetune import FinetuneParams
from sau.unlearn.unlearn import UnlearnParams


class SnapshotParams(Section):
    """How rows are divided before unlearning: `spare` is the share of the people to keep whom it is not shown, and on
    whom utility is judged."""

    spare: float = Field(0.0, ge=0, le=0.5)


class VerifyParams(Section):
    """Which policy judges, with how many of its stressors (None: its own budget), on how many rows of those who stay,
    and of those who judge: as many of each person; and how often what did not pass is tried again where the verdict
    says how (`tasks.retry`). `processes` score rows by parts, each with the models whole: to the same numbers."""

    policy: str = "quick"
    num_stressors: int | None = Field(None, ge=0)
    max_retain_rows: int = Field(200, ge=10, le=100_000)
    max_holdout_rows: int = Field(1000, ge=10, le=100_000)
    retries: int = Field(0, ge=0, le=5)
    processes: int = Field(1, ge=1, le=1024, exclude_if=lambda processes: processes == 1)


class TrainParams(FinetuneParams):
    """How a first version is trained here; for one that was adopted, the command that trains it elsewhere.

    `command` is run where a model without somebody's rows is wanted to compare with. It has the placeholders {data}, a
    folder of JSONL files to train on, {base}, the model's base where one was given, and {out}, the folder it has to
    write a Hugging Face model into.
    """

    command: str | None = None


class Params(Section):
    """The whole of params.yaml."""

    seed: int = Field(0, ge=0, lt=2**31)
    num_threads: int = Field(1, ge=1, le=1024)
    model: ModelParams
    train: TrainParams
    prune: PruneParams
    recover: FinetuneParams
    snapshot: SnapshotParams = SnapshotParams()
    unlearn: UnlearnParams
    adopt: AdoptParams = AdoptParams()
    package: PackageParams = PackageParams()
    verify: VerifyParams = VerifyParams()

    def check_processes(self, stage: str, processes: int) -> None:
        """Refuse to run a step on other processes than it has to have.

        Raises:
            ConfigError: how it is started.
        """
        needed, setting = self.processes_of(stage)
        if processes != needed:
            raise ConfigError(
                f"stage {stage}: runs on {needed} ({setting}), not {processes}: {command_of(stage, needed)}"
            )

    def processes_of(self, stage: str) -> tuple[int, str]:
        """How many processes a step has to have, and by which setting: all but a few have one."""
        if stage == "prune" or (stage == "adopt" and self.adopt.prune):
            return self.prune.processes, "prune.processes"
        return self.unlearn.processes if stage == "unlearn" else 1, "unlearn.processes"

    @property
    def digest(self) -> str:
        """SHA-256 of all of it as canonical JSON, the defaults of the methods it names included."""
        return _digest(self.model_dump(mode="json"))

    @property
    def training_digest(self) -> str:
        """SHA-256 of what a first version depends on: everything but how to unlearn and how to verify."""
        return _digest(self.model_dump(mode="json", exclude={"snapshot", "unlearn", "verify"}))


def command_of(stage: str, processes: int) -> str:
    """How a step of a recipe is started."""
    starter = "python" if processes == 1 else f"torchrun --standalone --nproc-per-node {processes}"
    return f"{starter} -m sau stage {stage}"


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_params(path: Path) -> Params:
    """Read params.yaml.

    Raises:
        ConfigError: missing or unreadable file, unknown key, value out of bounds.
    """
    return checked(Params, read_yaml(path), str(path))
