"""`sau demo`: a first version, one forget request, and everything a newcomer wants to see of it."""

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.panel import Panel
from rich.table import Table

from flows.cli import COLOURS, out, print_checks, progress
from sau.errors import RequestError
from tasks.settings import settings

NUM_QUESTIONS = 3


def run_demo(profile: str, data: str, data_options: dict[str, Any], overrides: dict[str, Any]) -> None:
    """Bootstrap line `profile` where it is new, forget its next person, and print what came of it.

    Raises:
        RequestError: every person but one is forgotten already.
        SauError: whatever a step refuses.
    """
    from sau.checkpoint.sparse import open_sparse, read_manifest
    from sau.data.records import load_records
    from sau.data.sources import write_data

    started = time.monotonic()
    with progress():
        from flows import pipeline
        from tasks.ledger import Ledger
        from tasks.prepare import subjects_at
        from tasks.tracking import Tracking

        tracking, ledger = Tracking(settings()), Ledger(settings().ledger_url)
        if tracking.version(profile) is None:
            pipeline.log.info("bootstrapping model line %s", profile)
            pipeline.bootstrap(profile, data, data_options, overrides)
        champion = tracking.champion(profile)
        people = sorted(subjects_at(champion.tags["git_tag"]))
        people = [p for p in people if ledger.find(profile, p) is None]
        if len(people) < 2:
            raise RequestError(f"line {profile}: nobody is left to forget; remove .sau and its tags to start again")
        # TOFU's forget set is several people; elsewhere one person asks.
        asking = [p for p in people if profile == "smollm2" and p.startswith("f")] or people[:1]
        neighbour = next(p for p in people if p not in asking)
        requests = [ledger.submit(profile, person, "consent-withdrawn") for person in asking]
        pipeline.log.info("request %s received, due %s", requests[0].id, f"{requests[0].deadline_at:%Y-%m-%d}")
        outcome = pipeline.forget(profile, show_answers=data == "demo")

        parent = champion
        version = tracking.version(profile, outcome["version"])
        assert version is not None  # forget has registered it
        gold = pipeline.RETRAIN.format(line=profile)
        folders = {"before": tracking.download(parent), "after": tracking.download(version)}
        pipeline.log.info("asking both versions")
        with TemporaryDirectory(prefix="sau-demo-") as scratch:
            write_data(data, Path(scratch) / "data", **data_options)
            train = Path(scratch) / "data" / "train"
            rows = {
                who: load_records(train / f"{who}.jsonl").to_list()[:NUM_QUESTIONS]
                for who in (requests[0].subject_id, neighbour)
            }
        answers = {}
        for when, folder in folders.items():
            lm = open_sparse(folder)
            answers[when] = {row["record_id"]: lm.answer(row["question"]) for its in rows.values() for row in its}
        record = json.loads(
            Path(tracking.client.download_artifacts(outcome["run_id"], "verification.json")).read_text()
        )

    for who, its_rows in rows.items():
        kind = "the person who asked to be forgotten" if who == requests[0].subject_id else "a neighbour, to be kept"
        table = Table(
            "question",
            f"before ({profile}@v{parent.version})",
            f"after ({outcome['tag']})",
            title=f"{who}: {kind}",
            title_justify="left",
        )
        for row in its_rows:
            table.add_row(row["question"], answers["before"][row["record_id"]], answers["after"][row["record_id"]])
        out.print(table)
    print_checks(record)

    table = Table("", "before", "after", title="sparse checkpoints", title_justify="left")
    manifests = [read_manifest(folder) for folder in folders.values()]
    table.add_row("sparsity", *(f"{m.sparsity:.4%}" for m in manifests))
    table.add_row("weights that are not pruned", *(f"{m.num_nonzeros:,} of {m.num_weights:,}" for m in manifests))
    table.add_row("mask", *(m.mask_digest[:16] for m in manifests))
    table.add_row(
        "file, of dense size", *(f"{m.num_bytes / 1e6:.1f} MB, {m.num_bytes / m.dense_bytes:.0%}" for m in manifests)
    )
    out.print(table)

    table = Table("version", "aliases", "verdict", "requests", title="registered versions", title_justify="left")
    for line in (profile, gold):
        for v in tracking.versions(line):
            fresh = tracking.version(line, int(v.version)) or v
            table.add_row(
                fresh.tags["git_tag"],
                ", ".join(fresh.aliases),
                fresh.tags["verdict"],
                fresh.tags["request_ids"].replace(",", " "),
            )
    out.print(table)
    verdict, tag, request = outcome["verdict"], outcome["tag"], requests[0].id
    role = "champion" if outcome["champion"] else "a candidate only"
    took = f"({time.monotonic() - started:.0f} s)"
    lines = [
        f"request {request}: [bold {COLOURS[verdict]}]{verdict}[/], {tag} is {role}   {took}",
        "",
        "What to open next (activate the environment first: [bold]. .venv/bin/activate[/]):",
        "  sau ui                          the MLflow and Prefect pages",
        f"  sau lineage {tag}             the chain of versions",
        f"  sau reproduce {tag} --rerun   bring it back, and make it again bit for bit",
        f"  sau request show {request}",
        "  sau demo                        the next person",
    ]
    out.print(Panel("\n".join(lines), expand=False))
