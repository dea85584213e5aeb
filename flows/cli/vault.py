"""`sau vault`: whose rows are held, and the key-encryption key anew."""

import os

import typer
from rich.table import Table

from sau.cli.app import app
from sau.cli.console import AsJson, out, print_json

vault_app = typer.Typer(help="The encrypted rows of requests.", no_args_is_help=True)
app.add_typer(vault_app, name="vault")


@vault_app.command("list")
def vault_list(as_json: AsJson = False) -> None:
    """List the requests whose rows are held, by id; nothing is opened."""
    from tasks.engines.keys import vault

    files = {request: vault().sealed(request) for request in vault().requests()}
    found = [{"request": r, "bytes": file.stat().st_size if file.is_file() else 0} for r, file in files.items()]
    if as_json:
        print_json(found)
        return
    table = Table("request", "bytes")
    for row in found:
        table.add_row(str(row["request"]), f"{row['bytes']:,}")
    out.print(table if found else "the vault is empty")


@vault_app.command("rotate")
def vault_rotate() -> None:
    """Wrap all data keys anew: by a new key file, or by what SAU_VAULT_KEY or SAU_VAULT_COMMAND give now."""
    from sau.data.wrapping import rotate
    from tasks.engines.keys import vault

    count = rotate(vault(), os.environ)
    out.print(f"{count} data keys are wrapped anew", highlight=False)
