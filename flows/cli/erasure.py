"""`sau purge`, `sau scan`, `sau status` and `sau suppression`: what is left of the forgotten, where, and its end."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from flows.cli.options import By, Line, lines_of, who
from sau.cli.app import app
from sau.cli.console import AsJson, err, out, plain, print_json, progress
from sau.errors import ConfigError

if TYPE_CHECKING:
    from tasks.scan import Scan

FOUND = 3
"""The exit code where something is left."""

suppression_app = typer.Typer(help="Who was forgotten, and must not come back.", no_args_is_help=True)
app.add_typer(suppression_app, name="suppression")


@app.command()
def purge(
    requests: Annotated[list[str] | None, typer.Argument(help="Request ids; default: all past the window.")] = None,
    line: Line = "tiny",
    after_days: Annotated[
        int | None, typer.Option(min=0, help="The rollback window; default SAU_PURGE_AFTER_DAYS.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: there is no way back.")] = False,
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Remove what was forgotten from every store: rows, the versions that knew them, and the key of the vault.

    There is no way back. Killed on the way, run it again. Exit 3: partial, and it says what is left where."""
    from tasks.engines.settings import settings
    from tasks.purge import due

    window = settings().purge_after_days if after_days is None else after_days
    if not requests and window is None:
        raise ConfigError("purge: name requests, or set the rollback window (SAU_PURGE_AFTER_DAYS, --after-days)")
    named = requests or due(line, window if window is not None else 0)
    if dry_run or not yes:
        _preview(named)
    if dry_run or not named:
        return
    if not yes and not (sys.stdin.isatty() and typer.confirm("purge, for good?", err=True)):
        raise ConfigError("purge: nothing was done; add --yes where nobody can be asked")
    from flows.servers import embedded_server

    server_is_up = embedded_server()
    with progress():
        from flows.purge import purge as run

        server_is_up()
        done = run(line, tuple(named), who(by) if requests else "", after_days)
    if as_json:
        print_json([purged.model_dump(mode="json") | {"partial": purged.partial} for purged in done])
    for purged in [] if as_json else done:
        table = Table("store", "what was done", "left", title=f"request {purged.request_id}")
        for cleaned in purged.stores:
            table.add_row(cleaned.store, plain(cleaned.action), f"[red]{plain(cleaned.residual)}[/]")
        out.print(table)
        out.print(f"expired: {', '.join(purged.expired) or 'nothing'}; record {purged.record[:16] or 'none'}")
    if any(purged.partial for purged in done):
        raise typer.Exit(FOUND)


def _preview(requests: list[str]) -> None:
    """What a purge of these would remove."""
    from tasks.purge import preview

    if not requests:
        err.print("no request is past the rollback window")
    for request_id in requests:
        found = preview(request_id)
        err.print(
            f"{request_id}: {len(found.objects)} objects of the data store go, and these versions expire: "
            f"{', '.join(found.expiring) or 'none'}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


@app.command()
def scan(
    request: Annotated[str | None, typer.Argument(help="A request whose rows are in the vault.")] = None,
    secrets: Annotated[
        str | None, typer.Option(help="A file with a secret a line, or - for standard input; they are not shown.")
    ] = None,
    database: Annotated[
        list[str] | None,
        typer.Option(
            help="A server's database that no setting names, as postgresql://user@server/prefect; repeat for more."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look for a request's texts, or secrets of yours, in every store and encoding. Exit 3 where something is left
    that no purge has still to come for. A scan proves presence, never absence."""
    from tasks.scan import scan as run
    from tasks.scan import secrets_of

    if (request is None) == (secrets is None):
        raise typer.BadParameter("a request, or --secrets", param_hint="REQUEST")
    wanted = secrets_of(request) if request else _secrets_in(secrets or "-")
    with progress():
        found = run(wanted, database or ())
    print_json(found) if as_json else _print_scan(found)
    if found.residue or (secrets and found.found):
        raise typer.Exit(FOUND)


def _secrets_in(given: str) -> dict[str, str]:
    """A secret a line, by number."""
    return {f"secret {number}": line for number, line in enumerate(lines_of(given), 1)}


def _print_scan(found: "Scan") -> None:
    table = Table("store", "files", "bytes", "hits", "which, and how")
    for store in found.stores:
        labels = sorted({label for hit in store.hits for label in hit.labels})
        forms = sorted({form for hit in store.hits for form in hit.forms})
        words = f"{len(labels)} secrets; {', '.join(forms)}" if store.hits else ""
        if store.unread or store.not_unpacked:
            words += f" ({store.unread} unread, {store.not_unpacked} too large to unpack)"
        table.add_row(
            store.store, f"{store.files:,}", f"{store.bytes:,}", str(len(store.hits) or ""), plain(words.strip())
        )
    out.print(table)
    for hit in (hit for store in found.residue for hit in store.hits):
        out.print(f"  [red]{plain(hit.where)}[/]: {', '.join(hit.labels[:5])}", soft_wrap=True, highlight=False)
    short = f", {len(found.too_short)} too short to be looked for" if found.too_short else ""
    out.print(f"{found.secrets} secrets looked for{short}; a scan proves presence, never absence", highlight=False)
    for words in found.not_searched:
        out.print(f"  not searched: {plain(words)}", highlight=False)


@app.command()
def status(line: Line = "tiny", as_json: AsJson = False) -> None:
    """How many of the people who asked each version of a line still knows, and which version led since when."""
    from tasks.engines.decisions import what_next
    from tasks.engines.tables import HeldBy
    from tasks.versions.status import status as run

    found = run(line)
    if as_json:
        print_json(found)
        return
    table = Table("version", "verdict", "has forgotten", "still knows", "bytes", "leads")
    for version in found.versions:
        table.add_row(
            version.tag, version.verdict, str(version.forgotten), str(version.known),
            version.expired or "there", "yes" if version.leads else "",
        )  # fmt: skip
    out.print(table)
    counts = ", ".join(f"{count} {state}" for state, count in found.requests.items())
    held = "".join(f", {len(ids)} of them {HeldBy(by).words}" for by, ids in found.held.items() if ids)
    out.print(f"requests: {counts or 'none'}{held}; {found.purged} purged", highlight=False)
    if words := what_next(found.held[HeldBy.QUARANTINE]):
        out.print(words, highlight=False, soft_wrap=True)
    for moved in found.history:
        out.print(f"{moved.at:%Y-%m-%d %H:%M} UTC  {moved.version} leads, by {plain(moved.by)}", highlight=False)


@suppression_app.command("list")
def suppression_list(as_json: AsJson = False) -> None:
    """List the requests whose people are kept out of new data sets; digests are not shown."""
    from tasks.suppression import Suppression

    found = [{"request": e.request_id, "line": e.line, "since": f"{e.at:%Y-%m-%d}"} for e in Suppression().all()]
    if as_json:
        print_json(found)
        return
    table = Table("request", "line", "since")
    for entry in found:
        table.add_row(*entry.values())
    out.print(table if found else "nobody is on it")


@suppression_app.command("lift")
def suppression_lift(request: Annotated[str, typer.Argument(help="Whose person may come back.")]) -> None:
    """Let a person be in data sets again."""
    from tasks.suppression import Suppression

    Suppression().lift(request)
    out.print(f"{request}: may come back")


@suppression_app.command("check")
def suppression_check(
    data: Annotated[str, typer.Argument(help="A file or folder of rows, as bootstrap takes them.")],
) -> None:
    """Would a data set bring somebody back? Exit 1 and how many rows, where it would."""
    from sau.data.records import open_records
    from tasks.suppression import Suppression

    Suppression().refuse(open_records(data)(), data)
    out.print("nobody of it is on the list")
