"""Is the service flat under load: many requests in the ledger, many versions of a line, many runs in MLflow?

    python -m benchmarks.load [--of ledger versions runs] [--json FILE]

A scratch clone, with a state folder for each size. The stores are filled by inserting rows into the tables of
the product and of MLflow; what is measured is what the commands do, the fastest of a few calls. In the ledger 100
requests are open (10 of them overdue) and 20 in review, whatever the size; all others are forgotten, a hundred by each
version. Both stores are SQLite files on this machine, or whatever SAU_DATABASE_URL and SAU_MLFLOW_TRACKING_URI name:
empty ones, and one size at a time. Of an MLflow server, --store is the URL of its database.

Times say little on another machine; the last column, the largest size over the smallest, does.
"""

import argparse
import contextlib
import io
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LINE = "load"
SIZES = {"ledger": (1_000, 10_000, 100_000), "versions": (10, 100, 1_000), "runs": (100, 1_000, 10_000)}
PER_VERSION = 100
NUM_OPEN, NUM_REVIEW, NUM_LATE = 100, 20, 10
BUDGET_S, MOST = 2.0, 5
_STORE = "LOAD_STORE"  # in the environment of a child

Calls = dict[str, Callable[[], object]]


def main() -> None:
    """Print a table for each store, or (in a child) measure one size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--sizes", type=int, nargs="+", help="instead of the usual ones")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--store", help="the database behind an MLflow server")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.store:
        os.environ[_STORE] = args.store
    if args.child is not None:
        print(json.dumps(_measured(CALLS[args.of[0]](args.child))))
        return
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        checkout = _checkout(Path(folder) / "checkout")
        for store in args.of:
            sizes = args.sizes or SIZES[store]
            each = [_of_size(checkout, Path(folder), store, size) for size in sizes]
            found[store] = {name: [one[name] for one in each] for name in each[0]}
            _print(store, sizes, found[store])
            if args.json:
                args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _print(store: str, sizes: "list[int] | tuple[int, ...]", found: dict[str, list[float]]) -> None:
    print(f"{store:42}" + "".join(f"{size:>12,}" for size in sizes) + f"{'ratio':>9}")
    for name, times in found.items():
        print(f"  {name:40}" + "".join(f"{1000 * t:9.1f} ms" for t in times) + f"{times[-1] / times[0]:9.1f}")
    sys.stdout.flush()


def _checkout(path: Path) -> Path:
    """A clone with the demo people in DVC's cache."""
    run = ["git", "clone", "--quiet", str(ROOT), str(path)]
    subprocess.run(run, check=True)
    write = "from pathlib import Path; from sau.data import write_demo_data; write_demo_data(Path('data'))"
    for command in (["-c", write], ["-m", "dvc", "commit", "--quiet", "--force", "data.dvc"]):
        subprocess.run([sys.executable, *command], cwd=path, check=True, stdout=subprocess.DEVNULL)
    return path


def _of_size(checkout: Path, folder: Path, store: str, size: int) -> dict[str, float]:
    """Seconds by call, measured in a process of its own that is in the clone."""
    home = folder / f"{store}-{size}"
    command = [sys.executable, "-m", "benchmarks.load", "--of", store, "--child", str(size)]
    env = {"SAU_HOME": str(home), "SAU_ROOT": str(checkout), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=checkout, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **env}
    )
    shutil.rmtree(home)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measured(calls: Calls) -> dict[str, float]:
    """The fastest of a few calls each, after one that imports and opens what has to be."""
    found = {}
    for name, call in calls.items():
        times: list[float] = []
        begun = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            call()
            while not times or (len(times) < MOST and time.perf_counter() - begun < BUDGET_S):
                started = time.perf_counter()
                call()
                times.append(time.perf_counter() - started)
        found[name] = min(times)
    return found


def _of_requests(size: int) -> Calls:
    """The ledger of a line with so many requests, forgotten by a hundredth as many versions."""
    from sau.data.demo import demo_people
    from tasks.engines.ledger import Ledger, State
    from tasks.engines.people import People
    from tasks.engines.settings import settings
    from tasks.purge import due
    from tasks.requests import submit, submit_all, waiting

    ledger = Ledger(settings().ledger_url)
    people = demo_people()
    People(ledger).name(LINE, people, people)
    num_versions = max(2, (size - NUM_OPEN - NUM_REVIEW) // PER_VERSION + 1)
    ids = fill_ledger(ledger, size, num_versions)
    fill_versions(num_versions, ids)
    asking = iter(people)
    return {
        "submit one": lambda: submit(LINE, next(asking)),
        "submit a list of 5": lambda: submit_all(LINE, [next(asking) for _ in range(5)]),
        "list what is open": lambda: ledger.list(LINE, [State.OPEN]),
        "`request list --state open`": lambda: command("request", "list", "--line", LINE, "--state", "open"),
        "`request list --due due-soon`": lambda: command("request", "list", "--line", LINE, "--due", "due-soon"),
        "what is held, of all lines": ledger.held,
        "what the next run takes": lambda: waiting(LINE),
        "what a purge would take": lambda: due(LINE, 30),
        "`status`": lambda: command("status", "--line", LINE),
        "`metrics`": lambda: command("metrics", "--line", LINE),
    }


def _of_versions(size: int) -> Calls:
    """A line with so many versions, a request each."""
    from flows.retrain import reference_line
    from tasks.engines.ledger import Ledger
    from tasks.engines.settings import settings
    from tasks.engines.tracking import Tracking
    from tasks.reconcile import reconcile
    from tasks.versions.lineage import carried_out, chain
    from tasks.versions.picture import page, svg
    from tasks.versions.registry import Registry

    fill_versions(size, fill_ledger(Ledger(settings().ledger_url), size - 1, size, per_version=1, waiting=False))
    registry, links = Registry(), chain(LINE, size)
    run_id, checkpoint = Tracking().client.create_run(Tracking().experiment(LINE)).info.run_id, settings().state / "c"
    checkpoint.mkdir()
    (checkpoint / "manifest.json").write_text("{}")

    def register() -> None:
        new = record_of(0, size, [f"r-{secrets.token_hex(8)}"])
        registry.add(new, checkpoint, run_id=run_id, description="")

    return {
        "`lineage`": lambda: command("lineage", f"{LINE}@v{size}"),
        "the chain of versions, read anew": lambda: chain(LINE, size, registry),
        "requests in force": lambda: carried_out(LINE),
        "picture and page of the lineage": lambda: (svg(links), page(links)),
        "`line show`": lambda: command("line", "show", LINE),
        "`status`": lambda: command("status", "--line", LINE),
        "what a run compares before it begins": lambda: list(reconcile(LINE, reference_line(LINE))),
        "register one more": register,
    }


def _of_runs(size: int) -> Calls:
    """A line with so many MLflow runs, a hundredth of them failed."""
    from tasks.engines.tracking import Tracking

    fill_versions(10, [])
    tracking = Tracking()
    fill_runs(tracking, size)

    def one() -> None:
        with tracking.run(LINE, "step") as run_id:
            tracking.metrics(run_id, {"a": 1.0})

    return {
        "begin and end a run": one,
        "end what dead attempts left": lambda: tracking.end_dead_runs(LINE),
        "verdicts on given weights": lambda: tracking.judged_runs(LINE, "f" * 64),
        "lines that have an experiment": lambda: tracking.lines(),
        "`metrics`": lambda: command("metrics", "--line", LINE),
    }


CALLS: dict[str, Callable[[int], Calls]] = {"ledger": _of_requests, "versions": _of_versions, "runs": _of_runs}


def command(*args: str) -> None:
    """A command of the product in this process, what it prints thrown away."""
    import flows.cli
    from sau.cli import console
    from sau.cli.app import app

    assert flows.cli
    console.out.file = io.StringIO()
    app(args, standalone_mode=False)


def fill_ledger(
    ledger: Any, size: int, versions: int, *, per_version: int = PER_VERSION, waiting: bool = True
) -> list[str]:
    """So many requests with two events each; the ids of those forgotten, in the order of their versions."""
    from sqlalchemy import insert

    from tasks.engines.tables import Event, Request, State, deadline

    now, rows, events, forgotten = datetime.now(UTC), [], [], []
    for number in range(size):
        state = State.FORGOTTEN
        if waiting and number < NUM_OPEN + NUM_REVIEW:
            state = State.OPEN if number < NUM_OPEN else State.REVIEW
        late = state == State.OPEN and number < NUM_LATE
        received = now - timedelta(days=60 if late or state == State.FORGOTTEN else 5)
        id_, done = f"r-{secrets.token_hex(8)}", state == State.FORGOTTEN
        if done:
            forgotten.append(id_)
        version = min(2 + (len(forgotten) - 1) // per_version, versions) if done else None
        rows.append({
            "id": id_, "line": LINE, "subject_id": f"somebody-{number}@example.org", "reason": "objection",
            "law": "gdpr", "state": state, "received_at": received, "deadline_at": deadline(received),
            "updated_at": now, "attempts": int(done), "version": version, "verdict": "PASS" if done else None,
        })  # fmt: skip
        events += [
            {"request_id": id_, "at": received, "state": s, "kind": "state"} for s in dict.fromkeys(("open", state))
        ]
    with ledger.session() as session:
        for table, all_ in ((Request, rows), (Event, events)):
            for start in range(0, len(all_), 10_000):
                session.execute(insert(table), all_[start : start + 10_000])
    return forgotten


def record_of(number: int, parent: int | None, request_ids: list[str]) -> Any:
    """The record of a version as a run would write it."""
    from tasks.engines.repository import git
    from tasks.engines.settings import settings
    from tasks.versions.record import BOOTSTRAP, VersionRecord

    head = git(settings().root, "rev-parse", "HEAD")
    digest = f"{number:064x}" if number else secrets.token_hex(32)
    return VersionRecord(
        line=LINE, number=number, request_ids=tuple(request_ids), parent=parent, weights_digest=digest,
        parent_digest=f"{parent:064x}" if parent else "", mask_digest="b" * 64, side_digest="c" * 64, sparsity=0.5,
        structure="unstructured", data_md5="d" * 32, forget_md5="e" * 32, checkpoint_md5="f" * 32,
        params_digest="1" * 64, training_digest="2" * 64, code_commit=head, git_commit=head, checkout_dirty=False,
        verdict="PASS" if parent else BOOTSTRAP, policy="standard" if parent else "",
        policy_digest="3" * 64 if parent else "", judged_at=datetime.now(UTC).isoformat(),
    )  # fmt: skip


def fill_versions(num: int, request_ids: list[str]) -> None:
    """So many versions, each made from the one before, the last one champion; with git tags and stored models."""
    from mlflow.store.model_registry.dbmodels import models as registry
    from mlflow.store.tracking.dbmodels import models as store
    from sqlalchemy import create_engine, insert

    from tasks.engines.registered import CHAMPION, PRODUCT
    from tasks.engines.repository import git
    from tasks.engines.settings import settings
    from tasks.engines.tracking import Tracking

    tracking = Tracking()
    experiment = int(tracking.experiment(LINE))
    tracking.client.create_registered_model(LINE, tags=dict([PRODUCT]))
    shares = -(-len(request_ids) // max(num - 1, 1)) or 1
    shares = max(shares, PER_VERSION) if len(request_ids) > num else shares
    versions, tags, models, model_tags, refs = [], [], [], [], []
    template = record_of(1, None, []), record_of(2, 1, [])
    for number in range(1, num + 1):
        asked = request_ids[(number - 2) * shares : (number - 1) * shares] if number > 1 else []
        parent = {"parent": number - 1, "parent_digest": f"{number - 1:064x}"} if number > 1 else {}
        own = {"number": number, "weights_digest": f"{number:064x}", "request_ids": tuple(asked)}
        said = template[number > 1].model_copy(update=own | parent).to_tags()
        model = f"m-{number:032x}"
        versions.append({
            "name": LINE, "version": number, "source": f"models:/{model}", "run_id": f"{number:032x}",
            "status": "READY", "current_stage": "None", "creation_time": number, "last_updated_time": number,
        })  # fmt: skip
        tags += [{"name": LINE, "version": number, "key": key, "value": value} for key, value in said.items()]
        models.append({
            "model_id": model, "experiment_id": experiment, "name": LINE, "artifact_location": f"none/{model}",
            "status": 2, "creation_timestamp_ms": number, "last_updated_timestamp_ms": number,
            "lifecycle_stage": "active", "model_type": "sau-sparse", "source_run_id": f"{number:032x}",
        })  # fmt: skip
        model_tags += [
            {"model_id": model, "experiment_id": experiment, "tag_key": key, "tag_value": value}
            for key, value in said.items()
        ]
        refs.append(f"update refs/tags/{LINE}@v{number} {template[0].git_commit}\n")
    engine = create_engine(os.environ.get(_STORE) or tracking.settings.tracking_uri)
    with engine.begin() as connection:
        for table, rows in (
            (registry.SqlModelVersion, versions), (registry.SqlModelVersionTag, tags),
            (store.SqlLoggedModel, models), (store.SqlLoggedModelTag, model_tags),
        ):  # fmt: skip
            connection.execute(insert(table), rows)
    engine.dispose()
    tracking.client.set_registered_model_alias(LINE, CHAMPION, str(num))
    old = git(settings().root, "tag", "--list", f"{LINE}@v*").split()
    git(settings().root, "update-ref", "--stdin", stdin="".join(f"delete refs/tags/{tag}\n" for tag in old))
    git(settings().root, "update-ref", "--stdin", stdin="".join(refs))


def fill_runs(tracking: Any, num: int) -> None:
    """So many runs of the line with ten tags, parameters and metrics each; one in a hundred has failed."""
    from mlflow.store.tracking.dbmodels import models as store
    from sqlalchemy import create_engine, insert

    experiment = int(tracking.experiment(LINE))
    rows: dict[Any, list[dict[str, Any]]] = {
        table: [] for table in (store.SqlRun, store.SqlTag, store.SqlParam, store.SqlLatestMetric, store.SqlMetric)
    }
    for number in range(num):
        run = f"{number + 10**6:032x}"
        rows[store.SqlRun].append({
            "run_uuid": run, "name": "step", "experiment_id": experiment, "lifecycle_stage": "active",
            "artifact_uri": "none", "status": "FAILED" if number % 100 == 99 else "FINISHED", "start_time": number,
            "end_time": number, "source_type": "LOCAL", "user_id": "nobody", "source_name": "", "entry_point_name": "",
            "source_version": "",
        })  # fmt: skip
        said = {"sau.ledger": tracking.ledger, "weights_digest": f"{number:064x}"} | {f"t{n}": "x" for n in range(8)}
        rows[store.SqlTag] += [{"run_uuid": run, "key": key, "value": value} for key, value in said.items()]
        rows[store.SqlParam] += [{"run_uuid": run, "key": f"p{n}", "value": "1"} for n in range(10)]
        measured = [{"run_uuid": run, "key": f"m{n}", "value": 0.5, "timestamp": 1, "step": 0} for n in range(10)]
        rows[store.SqlLatestMetric] += [one | {"is_nan": False} for one in measured]
        rows[store.SqlMetric] += [one | {"is_nan": False} for one in measured]
    engine = create_engine(os.environ.get(_STORE) or tracking.settings.tracking_uri)
    with engine.begin() as connection:
        for table, all_ in rows.items():
            for start in range(0, len(all_), 10_000):
                connection.execute(insert(table), all_[start : start + 10_000])
    engine.dispose()


if __name__ == "__main__":
    main()
