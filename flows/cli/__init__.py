"""The command line of a checkout: adds what needs the engines to the library's app.

Heavy imports happen inside the commands, so `--help` and `request list` answer fast.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from flows.cli import benchmark, certificate, desk, erasure, lines, officer, plan, requests, stores, vault, versions
from sau.cli.models import add_resolver

if TYPE_CHECKING:
    from sau.checkpoint.card import Story

__all__ = [
    "benchmark",
    "certificate",
    "desk",
    "erasure",
    "lines",
    "officer",
    "plan",
    "requests",
    "stores",
    "vault",
    "versions",
]


def _version(model: str) -> Path | None:
    """The stored checkpoint of a version given as <line>@v<N>."""
    if "@" not in model:
        return None
    from tasks.engines.repository import parse_tag
    from tasks.versions.registry import Registry

    registry = Registry()
    return registry.download(registry.get(*parse_tag(model)))


def _story(model: str) -> "Story | None":
    """What the stores know of a version given as <line>@v<N>."""
    if "@" not in model:
        return None
    from tasks.versions.card import story_of_version

    return story_of_version(model)


add_resolver(_version, _story)
