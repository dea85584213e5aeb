"""A driver for crash tests: every write of the product to a store is noted, and one of them is the process's last.

It patches the functions that write, in a process of its own; the product knows nothing of it.
"""

import os
import signal
from collections.abc import Callable
from typing import Any

from mlflow import MlflowClient

from tasks.engines import workspace
from tasks.engines.ledger import Ledger

MLFLOW = (
    "create_logged_model", "log_model_artifacts", "finalize_logged_model", "log_outputs", "create_model_version",
    "set_registered_model_alias", "set_model_version_tag", "update_model_version", "log_text", "set_terminated",
    "rename_registered_model", "rename_experiment", "delete_model_version",
)  # fmt: skip
GIT = ("commit-tree", "tag", "update-ref")


class Writes:
    """The writes of this process within a block, by name; after number `last` (from 1) it kills itself.

    Args:
        only: writes to note, by the beginning of their name; all where none is given.
    """

    def __init__(self, last: int | None = None, *, only: tuple[str, ...] = ("",)) -> None:
        self.names: list[str] = []
        self.last, self.only = last, only
        self.patched: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> "Writes":
        for name in MLFLOW:
            self._watch(MlflowClient, name, lambda *_, name=name: f"mlflow {name}")
        self._watch(
            workspace, "git", lambda _, *args: f"git {args[0]}" if args[0] in GIT and "--list" not in args else ""
        )
        self._watch(workspace, "dvc", lambda _, *args: " ".join(("dvc", *args)))
        self._watch(Ledger, "_changed", lambda _self, _which, target: f"ledger {target}")

        return self

    def __exit__(self, *_: object) -> None:
        for patched in self.patched:
            setattr(*patched)

    def _watch(self, owner: Any, attribute: str, name_of: Callable[..., str]) -> None:
        original = getattr(owner, attribute)

        def watched(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            changed_nothing = result == []  # what the ledger says where no request was to be moved
            if not changed_nothing and (name := name_of(*args)) and name.startswith(self.only):
                self.names.append(name)
                if len(self.names) == self.last:
                    os.kill(os.getpid(), signal.SIGKILL)
            return result

        self.patched.append((owner, attribute, original))
        setattr(owner, attribute, watched)
