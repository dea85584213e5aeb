"""Options that several commands share."""

import getpass
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from sau.config import merge, parse_yaml, read_yaml
from sau.errors import ConfigError

_MAX_ID = 256

Line = Annotated[str, typer.Option("--line", "-l", help="The model line.")]


def _given(subject: str) -> str:
    """An id as it was given; for `-` the first line of standard input, where no process list shows it.

    Raises:
        BadParameter: standard input is empty.
    """
    if subject != "-":
        return subject
    if not (line := sys.stdin.readline(_MAX_ID).strip()):
        raise typer.BadParameter("-: standard input is empty", param_hint="--subject")
    return line


Subject = Annotated[
    str,
    typer.Option(
        "--subject",
        help="Id of the person, as in the data's subject_id; - reads it from standard input, out of the process list.",
        callback=_given,
    ),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="A parameter on top, as unlearn.lr=1e-4; repeat for more.")
]
Profile = Annotated[
    str | None, typer.Option(help="A file of profiles/ by name, or a YAML file, laid over params.yaml.")
]
ForgetSplit = Annotated[str, typer.Option(help="TOFU: forget01, forget05 or forget10.")]
RetainRows = Annotated[int, typer.Option(help="TOFU: rows to train on beside the forget rows.")]
HoldoutRows = Annotated[
    int | None, typer.Option(help="Rows no model is ever trained on; default: of 40 to 48 people, at most a quarter.")
]
SubjectColumn = Annotated[str, typer.Option(help="Your data's column that names the person.")]

By = Annotated[str, typer.Option("--by", help="Who decides; default: who is logged in.")]
Why = Annotated[str, typer.Option("--why", help="The reason, in your words; it stays in the ledger.")]
_MAX_LIST_BYTES = 16 << 20


def who(by: str) -> str:
    """Who decides: as they said, else who is logged in."""
    return by or getpass.getuser()


def moment(text: str) -> datetime:
    """A day or a moment; UTC where no zone is said.

    Raises:
        BadParameter: neither.
    """
    try:
        found = datetime.fromisoformat(text)
        return (found.replace(tzinfo=UTC) if found.tzinfo is None else found).astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            "has to look like 2026-11-03 or 2026-11-03T14:30+01:00", param_hint="--received-at"
        ) from None


def lines_of(source: str) -> list[str]:
    """The lines of a file, or of standard input where it is called -: without spaces around them, none empty.

    Raises:
        BadParameter: no such file, not UTF-8, or longer than 16 MiB.
    """
    try:
        if source == "-":
            raw = sys.stdin.buffer.read(_MAX_LIST_BYTES + 1)
        else:
            with open(source, "rb") as file:
                raw = file.read(_MAX_LIST_BYTES + 1)
        if len(raw) > _MAX_LIST_BYTES:
            raise typer.BadParameter(f"longer than {_MAX_LIST_BYTES} bytes")
        return [line for line in (line.strip() for line in raw.decode("utf-8-sig").split("\n")) if line]
    except OSError as error:
        raise typer.BadParameter(f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise typer.BadParameter("not UTF-8") from None


def overrides(profile: str | None, items: list[str] | None) -> dict[str, Any]:
    """--profile and --set as one nested mapping."""
    merged: dict[str, Any] = {}
    if profile and profile != "tiny":
        from tasks.engines.settings import settings

        named = settings().root / "profiles" / f"{profile}.yaml"
        path = named if named.is_file() else Path(profile)
        if not path.is_file():
            known = ", ".join(["tiny", *sorted(p.stem for p in named.parent.glob("*.yaml"))])
            raise ConfigError(f"profile {profile!r}: neither a YAML file nor one of {known}")
        merged = read_yaml(path)
    for item in items or []:
        key, sep, value = item.partition("=")
        if not sep or not key:
            raise typer.BadParameter(f"{item!r}: has to look like unlearn.lr=1e-4", param_hint="--set")
        nested: Any = _as_typed(value)
        for part in reversed(key.split(".")):
            nested = {part: nested}
        merged = merge(merged, nested)
    return merged


def _as_typed(value: str) -> Any:
    """A number, list or mapping where it is one, else the very word."""
    try:
        return parse_yaml(value)
    except yaml.YAMLError:
        return value


def absolute(source: str) -> str:
    """A path as an absolute one; what is no path as it is."""
    return str(Path(source).resolve()) if Path(source).exists() else source
