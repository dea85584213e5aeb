"""`sau certificate`, what needs a checkout: the public key, the log, and records of older versions."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from sau.cli.certificate import certificate_app
from sau.cli.console import COLOURS, AsJson, out, plain, print_json


@certificate_app.command("key")
def certificate_key(
    target: Annotated[Path | None, typer.Option("--out", help="Write it here as well.")] = None,
    of_weights: Annotated[
        bool, typer.Option("--weights", help="The one that verifies models' files, see `sau certificate weights`.")
    ] = False,
) -> None:
    """Print the public key (PEM) that verifies this checkout's records; its private half is made at first use."""
    from sau.certificate import envelope, weights
    from tasks.engines.keys import signing_key, weights_key

    pem = weights.public_pem(weights_key()) if of_weights else envelope.public_pem(signing_key())
    if target:
        target.write_text(pem, encoding="ascii")
    typer.echo(pem, nl=False)


@certificate_app.command("weights")
def certificate_weights(
    folder: Annotated[Path, typer.Argument(help="A model's folder, as `sau export` wrote it.")],
    target: Annotated[Path, typer.Option("--out", help="The signature's file, outside of the folder.")],
) -> None:
    """Sign a model's files for OpenSSF's model-signing, whose own verifier then says whether one was changed."""
    from sau.certificate.weights import sign_weights
    from tasks.engines.keys import weights_key

    if target.resolve().is_relative_to(folder.resolve()):
        raise typer.BadParameter("has to be outside of the folder, or it would be one of its files", param_hint="--out")
    target.write_bytes(sign_weights(folder, weights_key()))
    out.print(
        f"signed: sau certificate key --weights --out weights.pem, and whoever has it runs\n"
        f"model_signing verify key {plain(folder)} --signature {plain(target)} --public_key weights.pem",
        soft_wrap=True, highlight=False,
    )  # fmt: skip


@certificate_app.command("list")
def certificate_list(as_json: AsJson = False) -> None:
    """List the log of records, chain and head verified, with the files they are in."""
    from sau.certificate.envelope import public_pem
    from sau.certificate.log import read_log
    from tasks.certify import log_folder
    from tasks.engines.keys import signing_key

    entries = read_log(log_folder(), public_pem(signing_key())) if log_folder().is_dir() else []
    if as_json:
        print_json([{"file": str(e.path), "record": e.digest, **e.evidence.model_dump(mode="json")} for e in entries])
        return
    table = Table("number", "request", "version", "verdict", "signed", "purged", "file")
    for entry in entries:
        found = entry.evidence
        table.add_row(
            str(found.sequence),
            found.request.id,
            found.decision.version,
            f"[{COLOURS[found.verdict]}]{found.verdict}[/]",
            f"{found.issued_at:%Y-%m-%d %H:%M}",
            "yes" if found.purge else "",
            entry.path.name,
        )
    out.print(table if entries else "no records yet")
    if entries:
        out.print(f"in {plain(log_folder())}", soft_wrap=True, highlight=False)


@certificate_app.command("issue")
def certificate_issue(
    version: Annotated[str, typer.Argument(help="A version such as tiny@v2.")],
) -> None:
    """Sign the records of a version's requests, where that was not done yet; nothing is signed twice."""
    from tasks.certify import certify
    from tasks.engines.repository import parse_tag
    from tasks.versions.registry import Registry

    for digest in certify.fn(Registry().get(*parse_tag(version))):
        out.print(f"record {digest}", highlight=False)
