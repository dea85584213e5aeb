"""`sau request`: take, list, show and withdraw forget requests."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from flows.cli.options import Line, Subject
from sau.cli.app import app
from sau.cli.console import AsJson, err, out, print_json, progress
from sau.errors import TrackingError

if TYPE_CHECKING:
    from tasks.engines.ledger import Ledger, Request

_IN_FORCE = {True: "yes", False: "[red]no[/]", None: ""}
"""Whether the leading version has carried a forgotten request out; not asked of others."""

request_app = typer.Typer(help="Take, list, show and withdraw forget requests.", no_args_is_help=True)
app.add_typer(request_app, name="request")


def open_ledger() -> "Ledger":
    """The ledger that the settings name."""
    from tasks.engines.ledger import Ledger
    from tasks.engines.settings import settings

    return Ledger(settings().ledger_url)


@request_app.command("submit")
def request_submit(
    subject: Subject,
    line: Line = "tiny",
    reason: Annotated[
        str, typer.Option(help="Ground, such as consent-withdrawn (see `sau request list --help`).")
    ] = "unstated",
    as_json: AsJson = False,
) -> None:
    """Take a forget request. The same request twice is one request; the deadline is a calendar month away."""
    from tasks.requests import submit

    _show(submit(line, subject, reason), as_json)


@request_app.command("check")
def request_check(
    subject: Subject,
    line: Line = "tiny",
    as_json: AsJson = False,
) -> None:
    """Before anything is trained: does the model know this person, and what could a verdict say of so many rows?"""
    with progress():
        from tasks.requests import check

        found = check(line, subject)
    print_json(found) if as_json else out.print(found.words, highlight=False)


@request_app.command("list")
def request_list(
    line: Annotated[str | None, typer.Option("--line", "-l", help="Only this model line.")] = None,
    state: Annotated[
        list[str] | None, typer.Option(help="Only open, running, forgotten, review or withdrawn; repeat for more.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List requests, oldest first. In force: carried out by the version that leads.

    Grounds: no-longer-needed, consent-withdrawn, objection, unlawful, legal-obligation, child, unstated."""
    from tasks.engines.ledger import State

    if bad := [s for s in state or [] if s not in set(State)]:
        raise typer.BadParameter(f"{bad[0]!r}: has to be one of {', '.join(State)}", param_hint="--state")
    rows = open_ledger().list(line, [State(s) for s in state or []])
    holds = _in_force(rows)
    if as_json:
        print_json([row.public() | {"in_force": holds.get(row.id)} for row in rows])
        return
    table = Table("request", "line", "state", "in force", "received", "deadline", "verdict", "version")
    for r in rows:
        version = f"{r.line}@v{r.version}" if r.version else ""
        table.add_row(
            r.id,
            r.line,
            r.state,
            _IN_FORCE[holds.get(r.id)],
            f"{r.received_at:%Y-%m-%d %H:%M}",
            f"{r.deadline_at:%Y-%m-%d}",
            r.verdict or "",
            version,
        )
    out.print(table if rows else "no requests")


@request_app.command("show")
def request_show(request_id: str, as_json: AsJson = False) -> None:
    """Show one request with its history."""
    _show(open_ledger().get(request_id), as_json)


@request_app.command("withdraw")
def request_withdraw(request_id: str, as_json: AsJson = False) -> None:
    """Withdraw a request that is still open."""
    from tasks.requests import withdraw

    _show(withdraw(request_id), as_json)


def _in_force(rows: "list[Request]") -> dict[str, bool]:
    """Of forgotten requests, whether the leading version has carried them out; empty where MLflow cannot be asked."""
    from tasks.requests import in_force

    try:
        return in_force(rows)
    except TrackingError as error:
        err.print(f"whether forgotten requests are in force is not known: {escape(str(error))}", soft_wrap=True)
        return {}


def _show(request: "Request", as_json: bool) -> None:
    holds = _in_force([request]).get(request.id)
    events = [{"at": at.isoformat(), "state": state} for at, state in open_ledger().events(request.id)]
    if as_json:
        print_json(request.public() | {"in_force": holds, "events": events})
        return
    table = Table(show_header=False, box=None)
    for key, value in request.public().items():
        if value is not None:
            table.add_row(f"[dim]{key}[/]", escape(str(value)))
    if holds is not None:
        table.add_row("[dim]in force[/]", _IN_FORCE[holds])
    table.add_row("[dim]history[/]", ", ".join(f"{e['state']} {e['at'][:19]}" for e in events))
    out.print(table)
