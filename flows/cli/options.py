"""Options that several commands share."""

import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from sau.config import merge, parse_yaml, read_yaml
from sau.errors import ConfigError

if TYPE_CHECKING:
    from sau.data.sources import DataOptions

_MAX_ID = 1100

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
Column = Annotated[
    list[str] | None,
    typer.Option(
        "--column", help="Your name of a column, as answer=reply; repeat for more. Or in a profile: data.columns."
    ),
]
PromptFormat = Annotated[
    str | None,
    typer.Option(
        help="How a question is put: auto (the tokenizer's chat template, else plain), chat, plain, or a text with "
        "{question} in it; the same as --set model.prompt=..."
    ),
]

By = Annotated[str, typer.Option("--by", help="Who decides; default: who is logged in.")]
Why = Annotated[str, typer.Option("--why", help="The reason, in your words; it stays in the ledger.")]
_MAX_LIST_BYTES = 16 << 20


def who(by: str) -> str:
    """Who decides: as they said, else who is logged in."""
    return by or getpass.getuser()


def lines_of(source: str, *, empty: bool = False) -> list[str]:
    """The lines of a file, or of standard input where it is called -: without spaces around them.

    Args:
        empty: with empty ones, so that the others can be counted.

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
        return [line for line in (line.strip() for line in raw.decode("utf-8-sig").split("\n")) if line or empty]
    except OSError as error:
        raise typer.BadParameter(f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise typer.BadParameter("not UTF-8") from None


def data_options(laid_over: dict[str, Any], columns: list[str] | None = None, **given: Any) -> "DataOptions":
    """How a source is read: what is given, then `data` of what is laid over the parameters, where it is taken out.

    Raises:
        BadParameter: a column that does not look like answer=reply.
        ConfigError: an unknown option or column.
    """
    from sau.config import checked
    from sau.data.sources import DataOptions

    named: dict[str, str] = {}
    for item in columns or []:
        ours, sep, theirs = item.partition("=")
        if not (ours and sep and theirs):
            raise typer.BadParameter("has to look like answer=reply", param_hint="--column")
        named[ours] = theirs
    data = laid_over.pop("data", None) or {}
    return checked(DataOptions, merge(merge(given, {"columns": named}), data), "data")


def overrides(profile: str | None, items: list[str] | None, prompt_format: str | None = None) -> dict[str, Any]:
    """--profile, --set and --prompt-format as one nested mapping, the last on top."""
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
    return merged if prompt_format is None else merge(merged, {"model": {"prompt": prompt_format}})


def _as_typed(value: str) -> Any:
    """A number, list or mapping where it is one, else the very word."""
    try:
        return parse_yaml(value)
    except yaml.YAMLError:
        return value


def absolute(source: str) -> str:
    """A path as an absolute one; what is no path as it is."""
    return str(Path(source).resolve()) if Path(source).exists() else source
