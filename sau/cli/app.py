"""The app: what the library can do alone, and from a checkout what `flows.cli` adds to it.

Exit codes: 0 done (verify: PASS), 1 error, 2 usage, 3 FAIL, 4 INCONCLUSIVE, 5 REFUSED.
"""

import contextlib
import os
import signal
import sys
import tempfile
import traceback
from importlib.metadata import entry_points
from pathlib import Path

import typer

from sau.cli.console import err, is_json, plain
from sau.errors import ConfigError, SauError
from sau.logs import about, as_json

ADDING = "sau.commands"
"""The entry-point group of modules that add commands when they are imported."""
OF_A_CHECKOUT = (
    "adopt", "archive", "audit", "benchmark", "bootstrap", "demo", "deploy", "desk", "doctor", "forget", "line",
    "lineage", "metrics", "plan", "purge", "reproduce", "request", "scan", "serve", "status", "suppression", "ui",
    "vault",
)  # fmt: skip
"""Commands that `flows.cli` adds."""

app = typer.Typer(
    name="sau",
    help=(
        "Sparsity-aware unlearning: make a sparse language model forget a person, prove how well, keep the lineage.\n\n"
        "Exit codes: 0 done (verify, forget: PASS), 1 error, 2 usage, 3 FAIL, 4 INCONCLUSIVE, 5 REFUSED."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Entry point of `sau` and `python -m sau`: an error becomes one line on stderr and exit code 1.

    Of one that is not ours the line says its kind and where its traceback lies: its words may quote the data.
    """
    # Ended from outside, still end child servers, take worktrees down and reopen requests.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        wanted = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "")
        if wanted != "stage":  # what DVC calls, in a worktree: the library alone
            _add_commands(wanted)
        app()
    except SauError as error:
        _say(error, str(error))
        sys.exit(1)
    except Exception as error:
        words = (error.strerror or "") if isinstance(error, OSError) else ""
        _say(error, f"{words}{': ' * bool(words)}see {_log(error)}")
        sys.exit(1)


def _say(error: Exception, words: str) -> None:
    """One line, whatever an engine or a path put into it; of JSON where the log is, but for a step, which DVC calls."""
    if is_json() and sys.argv[1:2] != ["stage"]:
        with about(error=type(error).__name__):
            as_json().error("%s", " ".join(words.split()))
        return
    err.print(f"[bold red]{type(error).__name__}[/]: {plain(' '.join(words.split()))}", highlight=False, soft_wrap=True)


def _log(error: Exception) -> str:
    """Write an error's traceback where only its user reads it, below SAU_HOME where that can be; returns the path."""
    home = os.environ.get("SAU_HOME")
    for folder in (*([Path(home, "logs")] if home else []), Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            number, path = tempfile.mkstemp(prefix="sau-error-", suffix=".log", dir=folder)
            with open(number, "w", encoding="utf-8") as file:
                file.writelines(traceback.format_exception(error))
            return path
    return "no log, none could be written"


def _add_commands(wanted: str) -> None:
    """Import what adds commands, where it is installed.

    Raises:
        ConfigError: a command that needs a checkout is asked for and this is the library alone.
    """
    for point in entry_points(group=ADDING):
        try:
            point.load()
        except ModuleNotFoundError as error:
            if error.name not in (point.module, point.module.partition(".")[0]):
                raise
            if wanted in OF_A_CHECKOUT:
                raise ConfigError(
                    f"`sau {wanted}` runs from a checkout of the project and this is the library alone: "
                    "git clone it, run `make setup` there, then `.venv/bin/sau {wanted}`".replace("{wanted}", wanted)
                ) from None
