"""`sau demo`: a first version, one forget request, and everything a newcomer wants to see of it.

It loads the engines and models at once, so the command imports it when it runs.
"""

import logging
import time
from pathlib import Path
from typing import Any

from rich.panel import Panel
from rich.table import Table

from flows.bootstrap import bootstrap
from flows.forget import Outcome, forget
from flows.retrain import reference_line
from flows.servers import check_prefect
from sau.certificate.envelope import public_pem, read_key
from sau.certificate.log import read_record
from sau.checkpoint.manifest import read_manifest
from sau.checkpoint.sparse import open_sparse
from sau.cli.console import COLOURS, out, plain, print_checks, progress
from sau.data.records import Row
from sau.data.sources import DataOptions, open_source
from sau.errors import RequestError
from sau.verify import Verification
from tasks.certify import latest
from tasks.engines.keys import signing_key
from tasks.engines.ledger import Ledger, Request
from tasks.engines.people import internal_id
from tasks.engines.settings import settings
from tasks.requests import training_shards
from tasks.verify import RECORD
from tasks.versions.record import VersionRecord
from tasks.versions.registry import Registry

NUM_QUESTIONS = 3
log = logging.getLogger("sau")


def run_demo(profile: str, data: str, data_options: DataOptions, overrides: dict[str, Any]) -> None:
    """Bootstrap line `profile` where it is new, forget its next person, and print what came of it.

    Raises:
        RequestError: every person but one is forgotten already.
        SauError: whatever a step refuses.
    """
    started = time.monotonic()
    with progress():
        check_prefect()
        registry = Registry()
        if registry.find(profile) is None:
            log.info("bootstrapping model line %s", profile)
            bootstrap(profile, data, data_options, overrides)
        parent = registry.champion(profile)
        rows_of = _rows(data, data_options)
        requests, neighbour = _ask(profile, parent, rows_of)
        outcome = forget(profile, show_answers=data == "demo")
        assert outcome.version is not None  # there was a request
        version = registry.get(profile, outcome.version)
        folders = [registry.download(record) for record in (parent, version)]
        log.info("asking both versions")
        rows = {person: rows_of[person][:NUM_QUESTIONS] for person in (requests[0].subject_id, neighbour)}
        answers = [_answers(folder, rows) for folder in folders]
        verification = Verification.model_validate_json(registry.tracking.artifact(outcome.run_id, RECORD))

    for person, asked in rows.items():
        kind = "a neighbour, to be kept" if person == neighbour else "the person who asked to be forgotten"
        table = Table("question", f"before ({parent.tag})", f"after ({version.tag})", title=f"{person}: {kind}")
        for row in asked:
            table.add_row(row["question"], *(said[row["record_id"]] for said in answers))
        out.print(table)
    print_checks(verification)
    out.print(_checkpoints(folders))
    out.print(_versions(registry, [profile, reference_line(profile)]))
    _certificate(requests[0])
    out.print(_what_next(requests[0], outcome, time.monotonic() - started))


def _ask(line: str, parent: VersionRecord, rows_of: dict[str, list[Row]]) -> tuple[list[Request], str]:
    """The requests of whoever is next, and somebody who stays.

    Args:
        rows_of: the rows of everybody whom the data set trains on.

    Raises:
        RequestError: nobody is left.
    """
    ledger = Ledger(settings().ledger_url)
    shards = training_shards(parent.tag)
    there = [person for person in sorted(rows_of) if f"{internal_id(line, person)}.jsonl" in shards]
    people = [person for person in there if ledger.find(line, person) is None]
    if len(people) < 2:
        raise RequestError(f"line {line}: nobody is left to forget; remove .sau and its tags to start again")
    # TOFU's forget set is several people; elsewhere one person asks.
    asking = [person for person in people if line == "smollm2" and person.startswith("f")] or people[:1]
    requests = [ledger.submit(line, person, "consent-withdrawn") for person in asking]
    log.info("request %s received, due %s", requests[0].id, f"{requests[0].deadline_at:%Y-%m-%d}")
    return requests, next(person for person in people if person not in asking)


def _rows(data: str, options: DataOptions) -> dict[str, list[Row]]:
    """The rows of each person whom a data set trains on, by ids as given."""
    found: dict[str, list[Row]] = {}
    for row in open_source(data, options).part("train"):
        found.setdefault(row["subject_id"], []).append(row)
    return found


def _answers(checkpoint: Path, rows: dict[str, list[Row]]) -> dict[str, str]:
    lm = open_sparse(checkpoint)
    return {row["record_id"]: lm.answer(row["question"]) for asked in rows.values() for row in asked}


def _checkpoints(folders: list[Path]) -> Table:
    table = Table("", "before", "after", title="sparse checkpoints")
    manifests = [read_manifest(folder) for folder in folders]
    table.add_row("sparsity", *(f"{m.sparsity:.4%}" for m in manifests))
    table.add_row("weights that are not pruned", *(f"{m.num_nonzeros:,} of {m.num_weights:,}" for m in manifests))
    table.add_row("mask", *(m.mask_digest[:16] for m in manifests))
    table.add_row("weights", *(m.weights_digest[:16] for m in manifests))
    table.add_row(
        "file, of dense size", *(f"{m.num_bytes / 1e6:.1f} MB, {m.num_bytes / m.dense_bytes:.0%}" for m in manifests)
    )
    return table


def _versions(registry: Registry, lines: list[str]) -> Table:
    table = Table("version", "aliases", "verdict", "requests", title="registered versions")
    for line in lines:
        for record in registry.all(line):
            table.add_row(record.tag, ", ".join(record.aliases), record.verdict, " ".join(record.request_ids))
    return table


def _certificate(request: Request) -> None:
    """The signed record of a request, verified as a second person would: by its file and the public key."""
    public = settings().state / "keys" / "signing.pub.pem"
    public.write_text(public_pem(signing_key()), encoding="ascii")
    entry = read_record(latest(request.id).path, read_key(str(public)))
    out.print(
        f"signed record {plain(entry.path)}: as it was signed, {entry.evidence.verdict}",
        soft_wrap=True,
        highlight=False,
    )
    out.print(
        f"anybody can say so: sau certificate verify RECORD --public-key {plain(public)}",
        soft_wrap=True,
        highlight=False,
    )


def _what_next(request: Request, outcome: Outcome, took_s: float) -> Panel:
    verdict, tag = outcome.verdict, outcome.tag
    role = "champion" if outcome.champion else "a candidate only"
    lines = [
        f"request {request.id}: [bold {COLOURS[verdict]}]{verdict}[/], {tag} is {role}   ({took_s:.0f} s)",
        "",
        "What to open next (activate the environment first: [bold]. .venv/bin/activate[/]):",
        "  sau ui                          the MLflow and Prefect pages",
        f"  sau lineage {tag}             the chain of versions",
        f"  sau reproduce {tag} --rerun   bring it back, and make it again bit for bit",
        f"  sau request show {request.id}",
        "  sau demo                        the next person",
    ]
    return Panel("\n".join(lines), expand=False)
