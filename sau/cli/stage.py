"""`sau stage`: one step of the recipe in the current folder. This is what dvc.yaml calls."""

import contextlib
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from sau.cli.app import app

REPORT_EVERY_S = 1.0
LOOK_EVERY_S = 0.5
"""How soon one of several processes ends after what has started it."""


@app.command()
def stage(
    name: Annotated[
        str, typer.Argument(help="base, train, prune, recover, snapshot, unlearn, package, adopt, retrain.")
    ],
) -> None:
    """Run one step of the recipe in the current folder, as dvc.yaml does."""
    from sau.data.vault import SEALED, reading_with
    from sau.data.wrapping import vault_of
    from sau.models.placement import repeatable
    from sau.stages import STAGES, run

    processes, rank = one_of_several()
    if name not in STAGES:
        raise typer.BadParameter(f"{name!r}: has to be one of {', '.join(STAGES)}")
    last = 0.0

    def progress(done: int, total: int, values: dict[str, float]) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= REPORT_EVERY_S:
            last = time.monotonic()
            shown = "  ".join(f"{key} {value:.3f}" for key, value in values.items())
            typer.echo(f"{name} {done}/{total}  {shown}")

    sealed = any(Path("forget").glob(f"*{SEALED}"))
    home = Path(os.environ.get("SAU_HOME") or ".sau")
    with repeatable(), reading_with(vault_of(home, os.environ)) if sealed else contextlib.nullcontext():
        try:
            run(name, progress=None if rank else progress, processes=processes)
        except ConnectionError as error:
            sys.exit(str(error))  # no line of an error: that is the other's to write
    if not rank:  # which gathers what is written, and so has most
        typer.echo(f"peak memory {peak_bytes()} bytes")


def one_of_several() -> tuple[int, int]:
    """How many processes torchrun has started, and which of them this is; it ends with what has started it."""
    processes, rank = (int(os.environ.get(key, default)) for key, default in (("WORLD_SIZE", 1), ("RANK", 0)))
    if processes > 1:
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    return processes, rank


def _end_with(parent: int) -> None:
    """End this process with torchrun, which may be killed and ends nothing then."""
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_S)
    os.kill(os.getpid(), signal.SIGKILL)


def peak_bytes() -> int:
    """What this process took at its most: of the machine's memory, or of a GPU's where it used one."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
