"""`sau doctor`, `sau metrics`, `sau line`: what the stores say of a line, and the ways out where they disagree."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from flows.cli.options import By, Line, who
from sau.cli.app import app
from sau.cli.console import COLOURS, AsJson, err, out, plain, print_json, progress
from sau.errors import ConfigError
from sau.files import write_private

if TYPE_CHECKING:
    from tasks.reconcile import Finding

line_app = typer.Typer(
    help="Show a model line, or decide of it by hand: which version leads, what is taken in, what is given up.",
    no_args_is_help=True,
)
app.add_typer(line_app, name="line")

Named = Annotated[str, typer.Argument(help="The model line.")]


@app.command()
def doctor(
    line: Line = "tiny",
    refill: Annotated[bool, typer.Option(help="Send the DVC remote what it lacks of the leading version.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check the installation (versions, permissions, room, clocks, schedule), compare ledger, MLflow and git tags of a
    line, look for damaged bytes, and mend what can be mended. Exit 1: a person has to decide."""
    with progress():
        from flows.doctor import doctor as run
        from tasks.installation import installation

        here, stores = list(installation(line)), run(line, refill=refill)
        findings = [*here, *stores]
    if as_json:
        print_json(findings)
    else:
        print_findings(findings)
        if not stores:
            out.print(f"{line}: the stores agree")
    raise typer.Exit(any(finding.stops for finding in findings))


@app.command()
def metrics(
    line: Line = "tiny",
    to: Annotated[
        Path | None,
        typer.Option(help="A file, written in one step: node_exporter's textfile folder is a place for it."),
    ] = None,
) -> None:
    """Print a line's metrics in Prometheus' text format: requests by state, overdue and oldest, versions, last run."""
    from tasks.metrics import metrics as run

    said = run(line)
    if to is None:
        typer.echo(said, nl=False)
        return
    try:
        write_private(to, said.encode())
        to.chmod(0o644)  # it names nobody, and somebody else reads it
    except OSError as error:
        raise ConfigError(f"{to}: cannot be written ({error.strerror})") from None


def print_findings(findings: "list[Finding]") -> None:
    """Each in a line: mended, to be done by the next attempt, or in the way of it."""
    for finding in findings:
        mark = "[red]stops[/]" if finding.stops else "[yellow]to do[/]" if finding.way_out else "[green]mended[/]"
        out.print(f"{mark} {plain(finding.words)}", soft_wrap=True, highlight=False)


@line_app.command("show")
def line_show(line: Named, as_json: AsJson = False) -> None:
    """List a line's versions, oldest first, with what the stores say of each, and what people decided of the line."""
    from tasks.engines.ledger import Ledger
    from tasks.engines.repository import tag_name, tagged_versions
    from tasks.engines.settings import settings
    from tasks.versions.registry import Versions

    registry = Versions()
    tagged = tagged_versions(settings().root, line)
    records = registry.all(line)
    if as_json:
        print_json([record.model_dump() | {"git_tag": record.number in tagged} for record in records])
        return
    table = Table("version", "aliases", "verdict", "made from", "requests", "git tag", "weights")
    for record in records:
        verdict = f"[{COLOURS.get(record.verdict, 'blue')}]{plain(record.judged.words)}[/]"
        verdict += "".join(f"\n[dim]before: {plain(before.words)}[/]" for before in reversed(record.verdicts[:-1]))
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
    for event in Ledger(settings().ledger_url).line_events(line):
        what = " ".join([event.kind, *([tag_name(line, event.version)] if event.version else []), event.note or ""])
        out.print(f"{event.at:%Y-%m-%d %H:%M} UTC  {plain(what.strip())}, by {plain(event.actor)}", highlight=False)


Number = Annotated[int, typer.Argument(min=1, help="Of the version.")]


@line_app.command("set-champion")
def line_set_champion(line: Named, number: Number, by: By = "") -> None:
    """Make a version lead the line, and say which requests are in force no more: one that passed, or one that was taken
    from git without evidence, on your word."""
    with progress():
        from flows.doctor import set_champion

        record, gone = set_champion(line, number, who(by))
    out.print(f"[bold]{record.tag}[/] is champion")
    if record.verdict == "UNJUDGED":
        out.print(f"on the word of {plain(who(by))}: nothing here shows how it was judged", highlight=False)
    if gone:
        out.print(f"not in force on it: {' '.join(gone)}; the next `sau forget --line {line}` carries them out again")


@line_app.command("adopt-version")
def line_adopt_version(line: Named, number: Number, by: By = "", as_json: AsJson = False) -> None:
    """Take a version that git and DVC have into this MLflow store, oldest first. It does not lead by that."""
    with progress():
        from flows.doctor import adopt_version

        record = adopt_version(line, number, who(by))
    if as_json:
        print_json(record)
        return
    out.print(f"[bold]{record.tag}[/] is registered, {record.verdict}")
    if record.number != number:
        out.print(f"MLflow gave number {number} away before, and gives none twice: it has a git tag of its own now")
    out.print(f"`sau line set-champion {line} {record.number}` makes it lead", highlight=False)


@line_app.command("forget-line")
def line_forget_line(
    line: Named,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Give a line up: everything of it goes under a name that nothing is begun under. Refused while requests wait."""
    from flows.doctor import forget_line
    from flows.retrain import reference_line
    from tasks.giving_up import plan

    planned = plan(line, reference_line(line))
    said = f"{line}: {planned.tags} git tags, MLflow's versions and {planned.requests} requests"
    if not yes:
        err.print(f"{said} go under a name such as {planned.name}", highlight=False, soft_wrap=True)
        if not (sys.stdin.isatty() and typer.confirm("give it up?", err=True)):
            raise ConfigError("forget-line: nothing was done; add --yes where nobody can be asked")
    with progress():
        given = forget_line(line, who(by))
    if as_json:
        print_json(given)
        return
    out.print(f"{line} is given up: what was of it is [bold]{given.name}[/] now", highlight=False)
    if given.unpurged:
        out.print(
            f"its versions still have the rows of {' '.join(given.unpurged)}: "
            f"`sau purge {given.unpurged[0]} --line {given.name}` removes them",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    out.print("tags that were pushed to a git remote are still there: `git push --delete` them too", highlight=False)
