"""`sau doctor` and `sau line`: what the stores say of a line, and the ways out where they contradict each other."""

import getpass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from flows.cli.options import Line
from flows.cli.requests import open_ledger
from sau.cli.app import app
from sau.cli.console import COLOURS, AsJson, out, plain, print_json, progress

if TYPE_CHECKING:
    from tasks.reconcile import Finding

line_app = typer.Typer(help="Show a model line, or say by hand which version leads.", no_args_is_help=True)
app.add_typer(line_app, name="line")

Named = Annotated[str, typer.Argument(help="The model line.")]


@app.command()
def doctor(
    line: Line = "tiny",
    refill: Annotated[bool, typer.Option(help="Send the DVC remote what it lacks of the leading version.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare ledger, MLflow and git tags of a line, look for damaged bytes, and mend what can be mended. Exit 1: a
    person has to decide."""
    with progress():
        from flows.doctor import doctor as run

        findings = run(line, refill=refill)
    if as_json:
        print_json(findings)
    else:
        print_findings(findings)
        if not findings:
            out.print(f"{line}: the stores agree")
    raise typer.Exit(any(finding.stops for finding in findings))


def print_findings(findings: "list[Finding]") -> None:
    """Each in a line: mended, to be done by the next attempt, or in the way of it."""
    for finding in findings:
        mark = "[red]stops[/]" if finding.stops else "[yellow]to do[/]" if finding.way_out else "[green]mended[/]"
        out.print(f"{mark} {plain(finding.words)}", soft_wrap=True, highlight=False)


@line_app.command("show")
def line_show(line: Named, as_json: AsJson = False) -> None:
    """List a line's versions, oldest first, with what the stores say of each."""
    from tasks.engines.settings import settings
    from tasks.engines.workspace import tagged_versions
    from tasks.versions.registry import Registry

    registry = Registry()
    tagged = tagged_versions(settings().root, line)
    records = [registry.get(line, found.number) for found in registry.all(line)]
    if as_json:
        print_json([record.model_dump() | {"git_tag": record.number in tagged} for record in records])
        return
    table = Table("version", "aliases", "verdict", "made from", "requests", "git tag", "weights")
    for record in records:
        verdict = f"[{COLOURS.get(record.verdict, 'blue')}]{record.verdict}[/]"
        table.add_row(
            record.tag,
            ", ".join(record.aliases),
            verdict,
            record.origin,
            " ".join(record.request_ids),
            "yes" if record.number in tagged else "[red]no[/]",
            record.weights_digest[:16],
        )
    out.print(table if records else f"no version of {plain(line)}")


@line_app.command("set-champion")
def line_set_champion(line: Named, number: Annotated[int, typer.Argument(min=1, help="Of the version.")]) -> None:
    """Make a version that passed lead the line, and say which requests are in force no more."""
    from flows.attempt import line_lock
    from tasks.requests import lapsed
    from tasks.versions.registry import Registry

    decided = f"{getpass.getuser()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    with progress(), line_lock(line, "set-champion"):
        record = Registry().lead(line, number, by=decided)
    out.print(f"[bold]{record.tag}[/] is champion")
    if gone := lapsed(open_ledger().list(line)):
        out.print(f"not in force on it: {' '.join(gone)}; the next `sau forget --line {line}` carries them out again")
