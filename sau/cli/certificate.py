"""`sau certificate`: show and verify evidence records anywhere, challenge their maker, write the letter."""

import json
import secrets
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sau.cli.app import app
from sau.cli.console import COLOURS, AsJson, out, plain, print_json
from sau.errors import CertificateError

if TYPE_CHECKING:
    from sau.certificate.log import Entry

certificate_app = typer.Typer(help="Evidence records: signed, verified offline.", no_args_is_help=True)
app.add_typer(certificate_app, name="certificate")

Record = Annotated[Path, typer.Argument(help="A record file (.json).")]
PublicKey = Annotated[
    str,
    typer.Option("--public-key", help="The signer's public key: a PEM file, got from the signer and not beside this."),
]

NOT_PASS = 2
"""The exit code of a record that is valid and does not say PASS."""


@certificate_app.command("verify")
def certificate_verify(
    file: Annotated[Path, typer.Argument(help="A record file, or a folder that holds a log of them.")],
    public_key: PublicKey,
    files: Annotated[Path | None, typer.Option(help="A checkpoint folder, to be the one the record is about.")] = None,
    as_json: AsJson = False,
) -> None:
    """Verify a record, or a whole log with its head. Needs no project, no network, no database.

    Exit code 0: valid, verdict PASS and in use; 1: invalid; 2: valid, and not that."""
    from sau.certificate.envelope import read_key
    from sau.certificate.files import check_subjects
    from sau.certificate.log import read_log, read_record

    key = read_key(public_key)
    entries = read_log(file, key) if file.is_dir() else [read_record(file, key)]
    if files:
        check_subjects(entries[-1].statement, files)
    passes = [entry.evidence.verdict == "PASS" and entry.evidence.decision.leads for entry in entries]
    if as_json:
        print_json([_said(entry) for entry in entries])
    elif file.is_dir():
        out.print(f"{len(entries)} records, chain and head as they were signed")
        for entry in entries:
            out.print(f"  {_line(entry)}", soft_wrap=True, highlight=False)
    else:
        out.print("the record is as it was signed" + (", and the files are those it is about" if files else ""))
        out.print(_line(entries[0]), soft_wrap=True, highlight=False)
    raise typer.Exit(0 if all(passes) else NOT_PASS)


@certificate_app.command("show")
def certificate_show(file: Record, as_json: AsJson = False) -> None:
    """Show what a record says. Nothing is verified: `sau certificate verify` does that."""
    from sau.certificate.log import read_record

    entry = read_record(file, None)
    if as_json:
        print_json(entry.statement.to_json())
        return
    found = entry.evidence
    asked, inputs, done = found.request, found.inputs, found.procedure
    facts = {
        "request": f"{asked.id}, {asked.num_records} rows, ground {asked.ground}",
        "received": f"{asked.received_at:%Y-%m-%d}, answer due {asked.deadline_at:%Y-%m-%d}",
        "commitment": f"{asked.commitment or 'none'}, key {asked.key}",
        "version": f"{found.decision.version}, {'leads' if found.decision.leads else 'does not lead'}",
        "made from": f"{inputs.parent}, mask {inputs.mask[:16]}, sparsity {inputs.sparsity:.2%}",
        "method": f"{done.method}, redistribution {done.redistribution}, {done.num_steps} steps ({done.stopped})",
        "policy": f"{found.policy.name} {found.policy.version}, against {found.policy.judged_against}",
        "verdict": found.verdict,
        "purge": "; ".join(f"{c.store}: {c.action}{f' ({c.residual})' if c.residual else ''}" for c in found.purge)
        or "not yet",
        "record": f"{entry.digest}, number {found.sequence}, {found.issued_at:%Y-%m-%d %H:%M} UTC",
        "signer": found.signer,
    }
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        table.add_row(f"[dim]{name}[/]", plain(value))
    out.print(table)
    checks = Table("check", "n", "value", "before", "verdict", "reason")
    for check in found.checks:
        colour = COLOURS.get(check.verdict, "dim")
        numbers = ("" if value is None else f"{value:.3g}" for value in (check.statistic, check.before))
        checks.add_row(
            plain(check.id), str(check.n), *numbers, f"[{colour}]{plain(check.verdict)}[/]", plain(check.reason)
        )
    out.print(checks)
    for reason in (*found.reasons, *found.not_covered, *found.limits):
        out.print(f"  {plain(reason)}", highlight=False)
    out.print("[dim]not verified; sau certificate verify FILE --public-key K does that[/]")


@certificate_app.command("challenge")
def certificate_challenge(
    file: Record,
    public_key: PublicKey,
    nonce: Annotated[
        str | None, typer.Option(help="The auditor's own, drawn after the record was signed; default: drawn now.")
    ] = None,
    stages: Annotated[int, typer.Option(min=1, help="How many stages.")] = 1,
    rows: Annotated[int, typer.Option(min=1, help="How many rows of each set.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Choose what an auditor makes again, by an HMAC over the record, so that the operator cannot choose."""
    from sau.certificate.challenge import challenge
    from sau.certificate.envelope import read_key
    from sau.certificate.log import read_record

    drawn = nonce or secrets.token_hex(16)
    found = challenge(read_record(file, read_key(public_key)), drawn, num_stages=stages, num_rows=rows)
    if as_json:
        print_json(found.model_dump() | {"nonce": drawn})
        return
    out.print(f"nonce {plain(drawn)}: with it anybody comes to the same choice", highlight=False)
    for name, outs in found.stages.items():
        out.print(
            f"run again: git checkout {plain(shlex.quote(found.version))} && dvc pull && "
            f"dvc repro --force --single-item {plain(shlex.quote(name))}",
            soft_wrap=True, highlight=False,
        )  # fmt: skip
        for path, md5 in outs.items():
            out.print(f"  dvc.lock has to say {plain(md5)} for {plain(path)} again", soft_wrap=True, highlight=False)
    for part, places in found.rows.items():
        out.print(f"rows of {part} to be shown: {', '.join(map(str, places))}", highlight=False)


@certificate_app.command("letter")
def certificate_letter(
    file: Record,
    language: Annotated[str, typer.Option(help="en or de.")] = "en",
    html_file: Annotated[Path | None, typer.Option("--html", help="Write a page to print here instead.")] = None,
) -> None:
    """The letter to the person who asked, as Markdown or as a page."""
    from sau.certificate.letter import letter
    from sau.certificate.log import read_record

    entry = read_record(file, None)
    text = letter(entry.evidence, entry.digest, language=language, html=html_file is not None)
    if html_file:
        html_file.write_text(text, encoding="utf-8")
    else:
        typer.echo(text, nl=False)


@certificate_app.command("bom")
def certificate_bom(file: Record) -> None:
    """The version as a CycloneDX 1.6 ML-BOM."""
    from sau.certificate.bom import bom
    from sau.certificate.log import read_record

    typer.echo(json.dumps(bom(read_record(file, None).statement), indent=1))


@certificate_app.command("schema")
def certificate_schema() -> None:
    """The JSON Schema of a record's payload."""
    from sau.certificate.record import schema

    typer.echo(json.dumps(schema(), indent=1))


def _said(entry: "Entry") -> dict[str, object]:
    found = entry.evidence
    weights = {check.applied_to for check in found.checks}
    if len(weights) > 1:
        raise CertificateError("certificate: its checks speak of more than one model")
    return {
        "request": found.request.id,
        "version": found.decision.version,
        "verdict": found.verdict,
        "leads": found.decision.leads,
        "record": entry.digest,
        "sequence": found.sequence,
        "issued_at": found.issued_at.isoformat(),
        "signer": found.signer,
    }


def _line(entry: "Entry") -> str:
    said = _said(entry)
    colour = COLOURS[str(said["verdict"])]
    signed = f"{entry.evidence.issued_at:%Y-%m-%d %H:%M} UTC by {plain(str(said['signer'])[:16])}"
    leads = "in use when it was signed" if said["leads"] else "not in use when it was signed"
    return (
        f"request {plain(said['request'])} on {plain(said['version'])}: [bold {colour}]{said['verdict']}[/], {leads}; "
        f"signed {signed}, record {entry.digest[:16]}"
    )
