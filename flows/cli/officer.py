"""What an officer decides, below `sau request`: extend, refuse, hold, confirm, told, approve, scope, rows, letters."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flows.cli.options import By, Why, lines_of, who
from flows.cli.requests import open_ledger, request_app, show
from sau.cli.console import AsJson, out, plain, print_json, progress

Records = Annotated[list[str] | None, typer.Option("--record", help="Id of a row; repeat for more.")]
RecordsFile = Annotated[str, typer.Option("--records", help="A file with one id a line; - is the input.")]


class Choice(StrEnum):
    """What is decided of a row."""

    FORGET = "forget"
    KEEP = "keep"


@request_app.command("extend")
def request_extend(request_id: str, why: Why, by: By = "", as_json: AsJson = False) -> None:
    """Extend the deadline, once and before it has passed: gdpr by two months, ccpa by 45 days. Tell the person why."""
    from tasks.engines.decisions import extend

    show(extend(open_ledger(), request_id, why, who(by)), as_json)


@request_app.command("refuse")
def request_refuse(
    request_id: str,
    ground: Annotated[str, typer.Option(help="Of the request's law: see `sau request grounds`.")],
    why: Why,
    record: Records = None,
    records: RecordsFile = "",
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Refuse a request, or with --record in part: those rows of the person are kept, the others are forgotten."""
    from tasks.engines.decisions import refuse
    from tasks.scope import decide

    if kept := [*(record or []), *(lines_of(records) if records else [])]:
        with progress():
            request = decide(request_id, kept, Choice.KEEP, why, who(by), ground=ground)
    else:
        request = refuse(open_ledger(), request_id, ground, why, who(by))
    show(request, as_json)


@request_app.command("letter")
def request_letter(
    request_id: str,
    about: Annotated[
        str, typer.Option(help="refusal, partial-refusal or extension; default: what was decided last.")
    ] = "",
    say: Annotated[
        str,
        typer.Option(help="What else the person is told; of an extension instead of what was noted as its reason."),
    ] = "",
    language: Annotated[str, typer.Option(help="A language that there are letters in: de or en.")] = "en",
    html: Annotated[Path | None, typer.Option(help="Write a page to print here, instead of Markdown.")] = None,
) -> None:
    """Write to the person that a request is refused, refused in part, or takes longer, and why. Of what was carried
    out, `sau certificate letter` writes."""
    from sau.certificate.notice import About
    from tasks.notices import notice

    if about and about not in set(About):
        raise typer.BadParameter(f"{about!r}: has to be one of {', '.join(About)}", param_hint="--about")
    written = notice(request_id, About(about) if about else None, say=say, language=language, html=html is not None)
    if html is None:
        typer.echo(written, nl=False)
    else:
        html.write_text(written, encoding="utf-8")


@request_app.command("grounds")
def request_grounds(as_json: AsJson = False) -> None:
    """List the grounds on which a request may be refused, by law."""
    from tasks.engines.decisions import GROUNDS

    if as_json:
        print_json(GROUNDS)
        return
    table = Table("law", "ground", "where it stands")
    for law, grounds in GROUNDS.items():
        for ground, words in grounds.items():
            table.add_row(law, ground, words)
    out.print(table)


@request_app.command("hold")
def request_hold(request_id: str, why: Why, by: By = "", as_json: AsJson = False) -> None:
    """Put a legal hold on a request: nothing is done about it until `release`. The clock goes on."""
    from tasks.engines.decisions import hold

    show(hold(open_ledger(), request_id, why, who(by)), as_json)


@request_app.command("release")
def request_release(request_id: str, why: Why, by: By = "", as_json: AsJson = False) -> None:
    """End a legal hold, or a quarantine: a request whose rows are mostly common text waits for that."""
    from tasks.engines.decisions import release

    show(release(open_ledger(), request_id, why, who(by)), as_json)


@request_app.command("confirm")
def request_confirm(
    request_id: str,
    how: Annotated[str, typer.Option("--how", help="How it was seen that the person is who they say.")],
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Confirm the person's identity. With SAU_CONFIRM_IDENTITY=true only confirmed requests are carried out."""
    from tasks.engines.decisions import confirm

    show(confirm(open_ledger(), request_id, how, who(by)), as_json)


@request_app.command("told")
def request_told(
    request_id: str,
    recipient: Annotated[str, typer.Option("--recipient", help="Who was told of the erasure, and how.")],
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Note that a recipient of the person's data was told of the erasure."""
    from tasks.engines.decisions import told

    show(told(open_ledger(), request_id, recipient, who(by)), as_json)


@request_app.command("approve")
def request_approve(request_id: str, why: Why, by: By = "", as_json: AsJson = False) -> None:
    """Approve a purge. With SAU_PURGE_PEOPLE=2 two different people have to before `sau purge` does it."""
    from tasks.engines.decisions import approve_purge

    show(approve_purge(open_ledger(), request_id, why, who(by)), as_json)


@request_app.command("scope")
def request_scope(
    request_id: str,
    aliases: Annotated[
        str, typer.Option("--aliases", help="A file with other names of the person, one a line; - is the input.")
    ] = "",
    show_text: Annotated[bool, typer.Option("--show-text", help="Also show names and rows: personal data.")] = False,
    as_json: AsJson = False,
) -> None:
    """Where else is this person? Rows about other people that name them, or say what a row of theirs says."""
    from tasks.scope import find

    with progress():
        scope = find(request_id, lines_of(aliases) if aliases else (), show_text=show_text)
    if as_json:
        print_json(scope)
        return
    names = f" ({', '.join(plain(name) for name in scope.names)})" if show_text else ""
    out.print(
        f"{scope.tag}: {scope.num_own} rows of their own, {len(scope.kept)} of them kept; {scope.num_names} names "
        f"guessed from these{names}; {scope.num_others} rows of others searched",
        highlight=False,
    )
    if scope.common:
        out.print(f"{len(scope.common)} rows of their own are common text:", *scope.common, highlight=False)
    table = Table("record", "found by", "similar", "decided", *(["row"] if show_text else []))
    for place in scope.places:
        words = (place.record_id, ", ".join(place.found_by), f"{place.similarity:.2f}", place.decision or "-")
        table.add_row(*(plain(word) for word in (*words, *([place.text] if show_text else []))))
    if scope.places:
        out.print(table)
    out.print(
        f"{len(scope.places)} rows of others found, {scope.undecided} undecided: these are kept until "
        f"`sau request decide {request_id} --record ID forget` says otherwise",
        highlight=False,
        soft_wrap=True,
    )


@request_app.command("decide")
def request_decide(
    request_id: str,
    choice: Annotated[Choice, typer.Argument(help="What is done with the rows.")],
    why: Why,
    record: Records = None,
    records: RecordsFile = "",
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Decide of rows that `scope` found: the next `sau forget` does it. To keep rows of their own, see `refuse`."""
    from tasks.scope import decide

    with progress():
        wanted = [*(record or []), *(lines_of(records) if records else [])]
        request = decide(request_id, wanted, choice, why, who(by))
    show(request, as_json)
