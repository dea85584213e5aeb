"""Memory: what a step is planned to take, what this machine has, and what the step took."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, computed_field
from transformers import AutoConfig

from sau.config import checked, merge, read_yaml
from sau.errors import ConfigError
from sau.models.folder import local_folder, refuse_untakeable
from sau.models.placement import device_of
from sau.params import Params
from sau.training.eight_bit import check_here
from sau.unlearn.memory import PROCESS_BYTES, Case, gigabytes, plan_memory, settings_that_fit, shell_of
from tasks.engines.settings import settings
from tasks.engines.workspace import Workspace

PEAK = "peak memory "
"""How the line begins that a step says its peak in, bytes."""

_NOTE = "memory.json"
_CGROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class Forecast(BaseModel):
    """A plan beside what this machine has. Bytes.

    Attributes:
        parts: of the peak, by what they are for.
        phase: where the peak is.
        available: memory of the device that steps run on, whoever uses it now.
        helps: settings with which it would fit, each on top of the ones before.
        judging: a line on what is not planned where several processes judge; "" where one does.
    """

    model_config = ConfigDict(frozen=True)

    parts: dict[str, int]
    phase: str
    device: str
    available: int
    helps: list[str] = []
    words: str
    judging: str = ""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def peak(self) -> int:
        return sum(self.parts.values())

    @computed_field  # type: ignore[prop-decorator]
    @property
    def fits(self) -> bool:
        return self.peak <= self.available

    @property
    def verdict(self) -> str:
        """Whether it fits, and what helps, in a sentence."""
        machine = f"this machine has {gigabytes(self.available)} ({self.device})"
        if self.fits:
            return f"{self.words}; {machine}: fits"
        way_out = f"would fit with {', '.join(self.helps)}" if self.helps else "no setting makes it fit"
        return f"{self.words}; {machine}: does not fit, {way_out}"


def params_of_checkout(overrides: Mapping[str, Any]) -> Params:
    """The checkout's parameters with `overrides` on top.

    Raises:
        ConfigError: an unknown or out-of-bounds parameter.
    """
    return checked(Params, merge(read_yaml(settings().root / "params.yaml"), overrides), "parameters")


def forecast(model: str | Path, params: Params, *, sparsity: float, has_base: bool, row_tokens: int = 64) -> Forecast:
    """What forgetting takes, from a folder's config alone.

    Raises:
        ModelError: no such folder or hub id.
        ConfigError: a config that transformers cannot read, or a device or a library that is not here.
    """
    check_here(params.unlearn.optimizer_state)
    folder = local_folder(str(model), weights=False, check=refuse_untakeable)
    try:
        shell = shell_of(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"model {str(model)!r}: its config makes no model ({type(error).__name__})") from None
    item = getattr(torch, params.model.dtype).itemsize
    placed = {name: getattr(params.model, name) for name in ("autocast", "micro_batch", "gradient_checkpointing")}
    case = Case(params.unlearn, sparsity, item, has_base, row_tokens, **placed)
    plan, device = plan_memory(shell, case), device_of(params.model.device)
    available = _memory_of(device)
    if device.type == "cpu":  # which its processes share
        available //= params.unlearn.processes
    return Forecast(
        parts=plan.parts,
        phase=plan.phase,
        device=str(device),
        available=available,
        helps=settings_that_fit(shell, case, available) if plan.peak > available else [],
        words=plan.words,
        judging=_judging(params.verify.processes, plan.num_parameters * item),
    )


def _judging(processes: int, weights: int) -> str:
    """A line on the verdict of several processes, from the bytes of one model; "" of one."""
    if processes == 1:
        return ""
    least = gigabytes(processes * (weights + PROCESS_BYTES))
    return f"not in this plan: judging, by {processes} processes with a whole model each: {least} together at least"


def check_fits(model: Path, params: Params, *, sparsity: float, has_base: bool) -> Forecast:
    """Refuse a run that this machine's memory cannot hold.

    Raises:
        ConfigError: it cannot; with the settings under which it could.
    """
    found = forecast(model, params, sparsity=sparsity, has_base=has_base)
    if not found.fits:
        raise ConfigError(found.verdict)
    return found


def note(ws: Workspace, **measured: int) -> None:
    """Write down beside an attempt what was planned and what a step took, in bytes."""
    path = ws.path / _NOTE
    path.write_text(json.dumps(noted(ws) | measured), encoding="utf-8")


def noted(ws: Workspace) -> dict[str, int]:
    """What was written down, by name of the step, and `planned`."""
    path = ws.path / _NOTE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def in_words(ws: Workspace) -> str:
    """What the step that took most was planned to take, and took."""
    measured = noted(ws)
    planned = measured.pop("planned", 0)
    words = [f"planned {gigabytes(planned)}"] if planned else []
    if measured:
        step = max(measured, key=lambda name: measured[name])
        words.append(f"measured {gigabytes(measured[step])} ({step})")
    return ", ".join(words)


def _memory_of(device: torch.device) -> int:
    """All of a device's memory: of a GPU its own, else the machine's or what this process's group may have of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    sizes = []
    for place in _CGROUP:
        text = Path(place).read_text(encoding="ascii").strip() if Path(place).is_file() else "max"
        sizes += [int(text)] if text.isdigit() else []
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *sizes])
