"""What is read from YAML and the command line: bounded files, mappings laid over each other, frozen models."""

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from sau.errors import ConfigError, some
from sau.files import read_bounded

MAX_YAML_BYTES = 1 << 20
_PROBLEMS = 10
"""So many wrong keys are named at once."""
_NAME = re.compile(r"[A-Za-z0-9_.:/@-]{1,64}\Z")
M = TypeVar("M", bound=BaseModel)


class Section(BaseModel):
    """Parameters that belong together: frozen, no unknown keys. Each room of the library owns its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def checked(model: type[M], fields: Any, where: str) -> M:
    """Validate `fields`; pydantic's report becomes one ConfigError that names each key and what is allowed."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        found = error.errors(include_url=False)
        problems = [f"{'.'.join(map(_name, e['loc'])) or 'value'}: {e['msg']}" for e in found]
        raise ConfigError(f"{where}: {some(problems, _PROBLEMS, '; ')}") from None


def _name(key: int | str) -> str:
    """A key as an error names it: one that is no name may be anything, of any length."""
    return key if isinstance(key, str) and _NAME.match(key) else str(key) if isinstance(key, int) else "(no name)"


class _Core(yaml.SafeLoader):
    """YAML 1.2's core schema: `2:4` is text (not the number 124), so are `on` and a date, and `1e-4` is a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise ConfigError(f"line {node.start_mark.line + 1}: the key {_name(str(twice))} is given twice")
        return super().construct_mapping(node, deep)


_Core.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
     "-+.0123456789"),
):  # fmt: skip
    _Core.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})\\Z"), [*_first, ""])
_Core.add_constructor("tag:yaml.org,2002:int", lambda _loader, node: int(node.value))


def parse_yaml(text: str) -> Any:
    """The value of a YAML text, or of one word of a command line, by YAML 1.2's core schema.

    Raises:
        ConfigError: a mapping with the same key twice.
        yaml.YAMLError: not YAML.
    """
    try:
        return yaml.load(text, Loader=_Core)
    except (RecursionError, ValueError):  # nested, or with more digits, than any parameter
        raise yaml.YAMLError from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file of bounded size, without anchors and aliases (a few hundred bytes of them
    expand to megabytes).

    Raises:
        ConfigError: see above, each naming the file.
    """
    try:
        raw = read_bounded(path, MAX_YAML_BYTES)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{str(path)[:200]!r}: cannot be read ({why})") from None
    try:
        text = raw.decode("utf-8")
        if any(isinstance(t, yaml.AliasToken | yaml.AnchorToken) for t in yaml.scan(text, Loader=yaml.SafeLoader)):
            raise ConfigError(f"{path}: YAML anchors and aliases are not allowed")
        content = parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(f"{path}: not valid YAML{f', line {mark.line + 1}' if mark else ''}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a YAML mapping is needed")
    return content


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid on top, mappings merged key by key; a component chosen by another name replaces it."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        replaced = (
            isinstance(value, Mapping)
            and isinstance(old, Mapping)
            and value.get("name", old.get("name")) != old.get("name")
        )
        merged[key] = (
            merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) and not replaced else value
        )
    return merged
