"""The command line of a checkout: adds what needs the engines to the library's app.

Heavy imports happen inside the commands, so `--help` and `request list` answer fast.
"""

from pathlib import Path

from flows.cli import benchmark, certificate, lines, officer, requests, stores, vault, versions
from sau.cli.models import add_resolver

__all__ = ["benchmark", "certificate", "lines", "officer", "requests", "stores", "vault", "versions"]


def _version(model: str) -> Path | None:
    """The stored checkpoint of a version given as <line>@v<N>."""
    if "@" not in model:
        return None
    from tasks.engines.workspace import parse_tag
    from tasks.versions.registry import Registry

    registry = Registry()
    return registry.download(registry.get(*parse_tag(model)))


add_resolver(_version)
