"""Training by a command of the user's own, where their model is not trained here."""

import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from sau.errors import ConfigError, ModelError
from sau.models.folder import read_headers


def train_by_command(command: str | None, places: Mapping[str, Path]) -> None:
    """Run a command that trains a model from rows; no shell is between.

    Args:
        command: with placeholders in braces for `places`.
        places: absolute, by name; `out` is the folder that it has to write a model into.

    Raises:
        ConfigError: there is no command, or it is none.
        ModelError: it failed, or what it wrote is no model's folder.
    """
    if command is None:
        raise ConfigError("retrain: there is no train.command")
    try:
        words = [word.format(**places) for word in shlex.split(command)]
    except (ValueError, KeyError, IndexError):
        names = ", ".join(f"{{{name}}}" for name in places)
        raise ConfigError(f"train.command: not a command with the placeholders {names}") from None
    try:
        done = subprocess.run(words, check=False)
    except OSError as error:
        raise ConfigError(f"train.command: {words[0]}: {error.strerror}") from None
    if done.returncode:
        raise ModelError(f"train.command: exit code {done.returncode}")
    read_headers(places["out"])
