"""`sau request`: take, list, show and withdraw forget requests."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from flows.cli.options import By, Line, Subject, lines_of, who
from sau.cli.app import app
from sau.cli.console import AsJson, err, out, plain, print_json, progress
from sau.errors import TrackingError

if TYPE_CHECKING:
    from tasks.engines.ledger import Ledger
    from tasks.engines.tables import Event, Request

_IN_FORCE = {True: "yes", False: "[red]no[/]", None: ""}
"""Whether the leading version has carried a forgotten request out; not asked of others."""

_DUE_COLOURS = {"overdue": "red", "due-soon": "yellow"}

request_app = typer.Typer(help="Take, list, show and withdraw forget requests.", no_args_is_help=True)
app.add_typer(request_app, name="request")


def open_ledger() -> "Ledger":
    """The ledger that the settings name."""
    from tasks.engines.ledger import Ledger
    from tasks.engines.settings import settings

    return Ledger(settings().ledger_url)


@request_app.command("submit")
def request_submit(
    subject: Subject = "",
    subjects: Annotated[
        str, typer.Option("--subjects", help="A file with one id a line, for many at once; - is the input.")
    ] = "",
    line: Line = "tiny",
    reason: Annotated[
        str, typer.Option(help="Ground, such as consent-withdrawn (see `sau request list --help`).")
    ] = "unstated",
    received_at: Annotated[
        str, typer.Option(help="When it reached you, as 2026-11-03 or 2026-11-03T14:30+01:00; the clock runs from it.")
    ] = "",
    law: Annotated[str, typer.Option(help="Whose deadline: gdpr (a calendar month) or ccpa (45 days).")] = "gdpr",
    skip_malformed: Annotated[
        bool, typer.Option("--skip-malformed", help="Of a list, take the other lines; exit 3 where one is malformed.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Of a list, print the answer to each line as CSV.")] = False,
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Take a forget request, or many at once. The same request twice is one request.

    A list is taken in one transaction, or not at all; lines are answered by their numbers, and quoted nowhere."""
    from tasks.requests import Answer, csv_of, moment, submit, submit_all

    if bool(subject) == bool(subjects):
        raise typer.BadParameter("one of --subject and --subjects is needed", param_hint="--subject")
    received = moment(received_at) if received_at else None
    if subject:
        show(submit(line, subject, reason, received_at=received, law=law, actor=who(by)), as_json)
        return
    taken = submit_all(
        line, lines_of(subjects, empty=True), reason,
        received_at=received, law=law, actor=who(by), skip_malformed=skip_malformed,
    )  # fmt: skip
    if as_json:
        print_json(taken)
    elif as_csv:
        typer.echo(csv_of(answer.model_dump(mode="json") for answer in taken.answers), nl=False)
    else:
        out.print(taken.words, highlight=False, soft_wrap=True)
    if taken.lines(Answer.MALFORMED):
        raise typer.Exit(3)


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
        list[str] | None,
        typer.Option(help="Only open, running, forgotten, review, refused or withdrawn; repeat for more."),
    ] = None,
    only_due: Annotated[
        str | None,
        typer.Option("--due", help="Only overdue, or due-soon (SAU_DUE_SOON_DAYS, 7), which has overdue too."),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV for spreadsheets.")] = False,
    as_json: AsJson = False,
) -> None:
    """List requests, oldest first. In force: carried out by the version that leads.

    Grounds: no-longer-needed, consent-withdrawn, objection, unlawful, legal-obligation, child, unstated."""
    from tasks.engines.decisions import put_aside, what_next
    from tasks.engines.ledger import UNANSWERED, State
    from tasks.requests import Due, csv_of, due

    if bad := [s for s in state or [] if s not in set(State)]:
        raise typer.BadParameter(f"{bad[0]!r}: has to be one of {', '.join(State)}", param_hint="--state")
    wanted = {"overdue": {Due.OVERDUE}, "due-soon": {Due.OVERDUE, Due.SOON}, None: set(Due)}
    if only_due not in wanted:
        raise typer.BadParameter(f"{only_due!r}: has to be overdue or due-soon", param_hint="--due")
    now = datetime.now(UTC)
    wanted_states = [State(s) for s in state or (UNANSWERED if only_due else ())]
    ledger = open_ledger()
    rows, held = ledger.list(line, wanted_states), ledger.held(line)
    rows = [row for row in rows if due(row, now) in wanted[only_due]]
    holds = _in_force(rows)
    if as_json or as_csv:
        said = [
            row.public()
            | {"in_force": holds.get(row.id), "due": due(row, now), "days_left": row.days_left(now)}
            | {"held_by": held.get(row.id)}
            for row in rows
        ]
        typer.echo(csv_of(said), nl=False) if as_csv else print_json(said)
        return
    table = Table("request", "line", "state", "in force", "received", "deadline", "days left", "verdict", "version")
    for r in rows:
        left, colour = r.days_left(now), _DUE_COLOURS.get(due(r, now))
        days = "" if left is None else f"{-left} overdue" if left < 0 else str(left)
        table.add_row(
            r.id,
            r.line,
            f"{r.state}, {held[r.id].words}" if r.id in held else r.state,
            _IN_FORCE[holds.get(r.id)],
            f"{r.received_at:%Y-%m-%d %H:%M}",
            f"{r.deadline_at:%Y-%m-%d}",
            f"[{colour}]{days}[/]" if colour else days,
            r.verdict or "",
            f"{r.line}@v{r.version}" if r.version else "",
        )
    out.print(table if rows else "no requests")
    shown = {row.id for row in rows}
    if words := what_next(put_aside({request_id: by for request_id, by in held.items() if request_id in shown})):
        out.print(words, highlight=False, soft_wrap=True)


@request_app.command("show")
def requestshow(request_id: str, as_json: AsJson = False) -> None:
    """Show one request with its history."""
    show(open_ledger().get(request_id), as_json)


@request_app.command("withdraw")
def request_withdraw(request_id: str, by: By = "", as_json: AsJson = False) -> None:
    """Withdraw a request that is still open."""
    from tasks.requests import withdraw

    show(withdraw(request_id, who(by)), as_json)


def _in_force(rows: "list[Request]") -> dict[str, bool]:
    """Of forgotten requests, whether the leading version has carried them out; empty where MLflow cannot be asked."""
    from tasks.requests import in_force

    try:
        return in_force(rows)
    except TrackingError as error:
        err.print(f"whether forgotten requests are in force is not known: {escape(str(error))}", soft_wrap=True)
        return {}


def show(request: "Request", as_json: bool) -> None:
    """A request with its history."""
    from tasks.engines.decisions import put_aside, what_next
    from tasks.requests import due

    holds, now, ledger = _in_force([request]).get(request.id), datetime.now(UTC), open_ledger()
    history, held_by = ledger.history(request.id), ledger.held(request.line).get(request.id)
    if as_json:
        events = [
            {"at": e.at.isoformat(), "state": e.state, "kind": e.kind, "by": e.actor, "why": e.note} for e in history
        ]
        said = {"in_force": holds, "due": due(request, now), "days_left": request.days_left(now)}
        print_json(request.public() | said | {"held_by": held_by, "events": events})
        return
    table = Table(show_header=False, box=None)
    for key, value in request.public().items():
        if value is not None:
            table.add_row(f"[dim]{key}[/]", plain(value))
    if holds is not None:
        table.add_row("[dim]in force[/]", _IN_FORCE[holds])
    if (left := request.days_left(now)) is not None:
        table.add_row("[dim]days left[/]", str(left))
    if held_by:
        table.add_row("[dim]held by[/]", held_by.words)
    for number, event in enumerate(history):
        what = event.state if event.kind == "state" else event.kind
        table.add_row("" if number else "[dim]history[/]", plain(f"{event.at:%Y-%m-%d %H:%M} {what}{_who(event)}"))
    out.print(table)
    if words := what_next(put_aside({request.id: held_by} if held_by else {})):
        out.print(words, highlight=False, soft_wrap=True)


def _who(event: "Event") -> str:
    return (f" by {event.actor}" if event.actor else "") + (f": {event.note}" if event.note else "")
