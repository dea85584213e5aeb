"""The terminal: colours, exit codes, progress, and a verdict as a table."""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sau.logs import JSON, VARIABLE, as_json

if TYPE_CHECKING:
    from sau.verify.record import Verification  # imported where it is used: with torch it takes seconds

EXIT_CODES = {"PASS": 0, "FAIL": 3, "INCONCLUSIVE": 4, "REFUSED": 5}

QUIET_S = 30.0  # in a log file a step speaks up this often

COLOURS = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow", "NOT APPLICABLE": "dim", "REFUSED": "red"}

# Piped output keeps whole digests on a line, and a verdict's table.
out, err = Console(width=None if sys.stdout.isatty() else 160), Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

ShowAnswers = Annotated[
    bool, typer.Option("--show-answers", help="Quote answers in the report; refused for all but the demo people.")
]


class _Progress(logging.Handler):
    """INFO lines are printed; DEBUG lines (a step's own progress) replace each other beside a spinner,
    or where there is no terminal are printed now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.status = err.status("starting")
        self.printed = time.time()

    def emit(self, record: logging.LogRecord) -> None:
        text = plain(record.getMessage())
        if record.levelno >= logging.INFO:
            err.print(
                f"[dim]{self.formatter.formatTime(record, '%H:%M:%S') if self.formatter else ''}[/] {text}",
                highlight=False,
            )
        elif err.is_terminal:
            self.status.update(text)
        elif record.created - self.printed > QUIET_S:
            self.printed = record.created
            err.print(f"         {text}", highlight=False)


@contextmanager
def progress() -> Iterator[None]:
    """Show the product's log on stderr while the block runs, as lines of JSON where the settings say so."""
    if is_json():
        as_json()
        yield
        return
    handler = _Progress()
    handler.setFormatter(logging.Formatter())
    logger = logging.getLogger("sau")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        with handler.status:
            yield
    finally:
        logger.removeHandler(handler)


def is_json() -> bool:
    """Whether the settings want the log as JSON."""
    return os.environ.get(VARIABLE) == JSON


def plain(value: Any) -> str:
    """A value as a terminal may show it: markup stays text, and what would move its cursor or turn its words round is
    shown by number."""
    return escape("".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in str(value)))


def print_json(value: Any) -> None:
    """For programs: frozen models as objects."""
    typer.echo(json.dumps(value, indent=1, default=_plain))


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


def print_checks(verification: "Verification") -> None:
    """The verdict and its checks with both controls, power and cost as a table."""
    from sau.verify.report.words import filled, finding_words

    columns = {
        "id": "check", "n": "n", "value": "value", "before": "before", "reference": "reference",
        "seen": "people who stay", "alarms": "strangers", "margin": "margin", "power": "power",
        "rows_read": "rows read", "seconds": "CPU s",
    }  # fmt: skip
    columns = filled(columns, verification.checks)
    table = Table(*columns.values(), "verdict")
    table.columns[0].no_wrap = True  # the stressor stands at its end
    for finding in verification.checks:
        words = finding_words(finding)
        colour = COLOURS.get(finding.verdict, "dim")
        table.add_row(*(words[name] for name in columns), f"[{colour}]{finding.verdict}[/]")
    out.print(table)
    out.print(
        f"{verification.rows_read:,} rows read, {verification.seconds:.1f} s of CPU time; a reading that checks share "
        "is in the row of each, and here once"
    )
    if "seen" in columns:
        out.print(
            "each in the place of the one who asked: how many of the people who stay the check finds, and how many of "
            "the people the model never saw it takes for known"
        )
    verdict = verification.verdict
    against = f"against {verification.judged_against}"
    out.print(f"verdict [bold {COLOURS[verdict]}]{verdict}[/] by policy {verification.policy}, {against}")
    for reason in verification.reasons:
        out.print(f"  {plain(reason)}", highlight=False)
