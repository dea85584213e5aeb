"""Sparsity-aware unlearning: the library. Paths and tensors in, paths and small frozen models out.

    open, prune, unlearn, verify, save, export

are its six calls (`sau.surface`), loaded when they are first used.
"""

from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["export", "open", "prune", "save", "unlearn", "verify"]


class Room(ModuleType):
    """A room of the library that is one of its calls as well: `sau.unlearn(...)` beside `sau.unlearn.stop`."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return getattr(import_module("sau.surface"), self.__name__.rpartition(".")[2])(*args, **options)


def __getattr__(name: str) -> Any:
    if name in ("unlearn", "verify"):
        return import_module(f"sau.{name}")
    if name in __all__:
        return getattr(import_module("sau.surface"), name)
    raise AttributeError(f"module 'sau' has no attribute {name!r}")
