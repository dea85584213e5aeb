"""Extension by one file: a component is a frozen config class with `name: Literal[...]` in its own module.

Discovery imports every module of a package and lets import errors through; names are unique.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict

from sau.config import checked
from sau.errors import ConfigError


class Component(BaseModel):
    """Base of objectives, redistributions, pruners and metrics: keyword-only, frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str


C = TypeVar("C", bound=Component)
_SHOWN = 64


@cache
def discover(base: type[C], package: str) -> dict[str, type[C]]:
    """Every subclass of `base` that a module of `package` defines, by its `name`, sorted."""
    root = importlib.import_module(package)
    found: dict[str, type[C]] = {}
    for info in pkgutil.iter_modules(root.__path__, prefix=f"{package}."):
        module = importlib.import_module(info.name)
        for value in vars(module).values():
            if not (isinstance(value, type) and issubclass(value, base) and value.__module__ == info.name):
                continue
            name = value.model_fields["name"].default
            if not isinstance(name, str):
                continue  # an abstract base in a shared module
            if name in found:
                raise ConfigError(f"{package}: the name {name!r} is taken twice")
            found[name] = value
    return dict(sorted(found.items()))


def build(base: type[C], package: str, config: Any) -> C:
    """The component that `config` describes: a name, or a mapping with `name` and the component's own fields.

    Raises:
        ConfigError: an unknown name (with the valid ones and the nearest), key, or value out of bounds.
    """
    kind = base.__name__.lower()
    if isinstance(config, base):
        return config
    if not isinstance(config, str | Mapping):
        raise ConfigError(f"{kind}: {type(config).__name__}, a name or a mapping with a name is needed")
    fields = {"name": config} if isinstance(config, str) else dict(config)
    known = discover(base, package)
    name = fields.get("name")
    if not isinstance(name, str) or name not in known:
        near = difflib.get_close_matches(name, known, n=1) if isinstance(name, str) else []
        hint = f", did you mean {near[0]!r}" if near else ""
        shown = repr(name) if isinstance(name, str) and len(name) <= _SHOWN else f"({type(name).__name__})"
        raise ConfigError(f"unknown {kind} {shown}{hint}; known: {', '.join(known)}")
    return checked(known[name], fields, f"{kind} {name!r}")


def built(base: type[C], package: str) -> BeforeValidator:
    """For a pydantic field: what `build` takes becomes the component when the field is read, its defaults included."""
    return BeforeValidator(lambda config: build(base, package, config))
