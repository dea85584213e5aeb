"""What is read from YAML and the command line: bounded files, mappings laid over each other, frozen models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from sau.errors import ConfigError

M = TypeVar("M", bound=BaseModel)


def checked(model: type[M], fields: Any, where: str) -> M:
    """Validate `fields`; pydantic's report becomes one ConfigError that names each key and what is allowed."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or 'value'}: {e['msg']}" for e in error.errors(include_url=False)]
        raise ConfigError(f"{where}: {'; '.join(problems)}") from None


MAX_YAML_BYTES = 1 << 20


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file of bounded size, without anchors and aliases (a few hundred bytes of them
    expand to megabytes).

    Raises:
        ConfigError: see above, each naming the file.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    if len(raw) > MAX_YAML_BYTES:
        raise ConfigError(f"{path}: {len(raw)} bytes, at most {MAX_YAML_BYTES}")
    try:
        text = raw.decode("utf-8")
        if any(isinstance(t, yaml.AliasToken | yaml.AnchorToken) for t in yaml.scan(text, Loader=yaml.SafeLoader)):
            raise ConfigError(f"{path}: YAML anchors and aliases are not allowed")
        content = yaml.safe_load(text)
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
