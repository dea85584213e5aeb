"""A driver for crash tests: every step and every write to a store is noted, and at one of them the process is stopped.

It patches the functions that write, in a process of its own; the product knows nothing of it.
"""

import os
import resource
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil
from mlflow import MlflowClient

from tasks.engines import repository, workspace
from tasks.engines.ledger import Ledger

MLFLOW = (
    "create_logged_model", "log_model_artifacts", "finalize_logged_model", "log_outputs", "create_model_version",
    "set_registered_model_alias", "set_model_version_tag", "update_model_version", "log_text", "set_terminated",
    "rename_registered_model", "rename_experiment", "delete_model_version",
)  # fmt: skip
GIT = ("commit-tree", "tag", "update-ref")
BEFORE, AFTER = "before ", "after "
"""How the moments around a step are named."""
_AGAIN_S = 1.0
"""An error that falls where a library swallows whatever is raised, or an estimate has another way, is raised again."""


def kill_all() -> None:
    """This process and all that it has started, as the end of a container does it."""
    for process in psutil.Process().children(recursive=True):
        process.kill()
    kill_parent()


def kill_parent() -> None:
    """This process alone; what it has started is not told."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_child() -> None:
    """What does the work below this process; it is this process that sees it fail."""
    below = psutil.Process().children(recursive=True)
    assert below, "nothing works below this process"
    below[-1].kill()


def terminate() -> None:
    """As a scheduler or a user ends it, who would let it put things in order."""
    os.kill(os.getpid(), signal.SIGTERM)


def fail() -> None:
    """An error that nobody has thought of."""
    raise RuntimeError("raised by the test")


def leave_no_room() -> None:
    """From now on no file grows, here and in what is started: as where a disk is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


KINDS: dict[str, Callable[[], None]] = {
    "kill all": kill_all, "kill parent": kill_parent, "kill child": kill_child, "SIGTERM": terminate,
    "exception": fail, "no room": leave_no_room,
}  # fmt: skip


class Writes:
    """The writes of this process within a block, by name; after number `last` (from 1) it is stopped.

    Args:
        only: writes to note, by the beginning of their name; all where none is given.
        steps: also note when each tracked step of the flow begins and ends.
        stop: how.
        after_s: stop it so long after the write, in the middle of what comes then.
    """

    def __init__(
        self,
        last: int | None = None,
        *,
        only: tuple[str, ...] = ("",),
        steps: bool = False,
        stop: Callable[[], None] = kill_parent,
        after_s: float = 0,
    ) -> None:
        self.names: list[str] = []
        self.times: list[float] = []
        self.last, self.only, self.steps, self.stop, self.after_s = last, only, steps, stop, after_s
        self.patched: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> "Writes":
        for name in MLFLOW:
            self._watch(MlflowClient, name, lambda *_, name=name: f"mlflow {name}")
        for owner in (repository, workspace):
            self._watch(
                owner, "git", lambda _, *args: f"git {args[0]}" if args[0] in GIT and "--list" not in args else ""
            )
        self._watch(workspace, "dvc", lambda _, *args: " ".join(("dvc", *args)))
        self._watch(Ledger, "_changed", lambda _self, _which, target: f"ledger {target}")
        if self.steps:
            from prefect.tasks import Task  # Prefect reads its environment when it is imported

            self._watch(Task, "__call__", lambda *args: AFTER + step_of(*args), lambda *args: BEFORE + step_of(*args))
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for patched in self.patched:
            setattr(*patched)

    def _watch(
        self, owner: Any, attribute: str, name_of: Callable[..., str], name_before: Callable[..., str] = lambda *_: ""
    ) -> None:
        original = getattr(owner, attribute)

        def watched(*args: Any, **kwargs: Any) -> Any:
            self._note(name_before(*args))
            try:
                result = original(*args, **kwargs)
            except Exception:
                if name_before(*args):
                    signal.setitimer(signal.ITIMER_REAL, 0)  # the step is stopped
                raise
            name = name_of(*args)
            changed_nothing = result == [] and name.startswith("ledger ")
            self._note("" if changed_nothing else name)
            return result

        self.patched.append((owner, attribute, original))
        setattr(owner, attribute, watched)

    def _note(self, name: str) -> None:
        if not name or not name.startswith(self.only):
            return
        self.names.append(name)
        self.times.append(time.monotonic())
        if len(self.names) != self.last:
            return
        if self.after_s:
            signal.signal(signal.SIGALRM, lambda *_: self.stop())
            signal.setitimer(signal.ITIMER_REAL, self.after_s, _AGAIN_S if self.stop is fail else 0)
        else:
            self.stop()


def step_of(task: Any, *args: Any) -> str:
    """What a tracked step is called: of a recipe's stages each is one."""
    return f"{task.name} {args[0]}" if task.name == "stage" else str(task.name)
