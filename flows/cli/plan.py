"""`sau plan`: what unlearning would hold in memory, before a byte of a model is loaded."""

from typing import Annotated

import typer
from rich.table import Table

from flows.cli.options import Profile, Set, absolute, overrides
from sau.cli.app import app
from sau.cli.console import AsJson, out, print_json


@app.command()
def plan(
    model: Annotated[str, typer.Argument(help="Folder or hub id; its config alone is read.")],
    sparsity: Annotated[float, typer.Option(min=0, max=0.99, help="Of its masked matrices.")] = 0.5,
    base: Annotated[bool, typer.Option(help="Whether the model it was trained from is there.")] = True,
    row_tokens: Annotated[int, typer.Option(min=2, help="Of a row, prompt and answer.")] = 64,
    profile: Profile = None,
    set_: Set = None,
    as_json: AsJson = False,
) -> None:
    """Say what forgetting would take, whether this machine has it, and which settings would make it fit. Exit 1: it
    does not fit."""
    from tasks.memory import forecast, params_of_checkout

    params = params_of_checkout(overrides(profile, set_))
    found = forecast(absolute(model), params, sparsity=sparsity, has_base=base, row_tokens=row_tokens)
    if as_json:
        print_json(found)
    else:
        table = Table("what", "bytes")
        for name, size in found.parts.items():
            table.add_row(name, f"{size:,}")
        table.add_row(f"[bold]peak, while {found.phase}[/]", f"[bold]{found.peak:,}[/]")
        table.add_row(f"this machine ({found.device})", f"{found.available:,}")
        out.print(table)
        for line in filter(None, (found.verdict, found.judging)):
            out.print(line, soft_wrap=True)
    raise typer.Exit(0 if found.fits else 1)
