"""Run in a bootstrapped checkout: the forget flow is killed at every step in turn and run again; prints JSON.

Each kill begins from the same stores, put back in place; DVC's cache stays, so a step that was done once comes from it.
"""

import json
import os
import shutil
import signal
import sqlite3
import sys
import threading
from contextlib import closing
from importlib import import_module
from pathlib import Path

from flows.servers import prefect_server
from tasks.engines.settings import settings
from tests.apart import in_child
from tests.killing import Writes

LINE, REFERENCES = "tiny", "tiny-retrain"
STEPS = (
    "dvc ",
    "ledger ",
    "git tag",
    "mlflow create_model_version",
    "mlflow set_registered_model_alias",
    "mlflow log_text",
)
ONCE = ("dvc pull", "mlflow log_text")
"""Writes of which only the first of several in a row is a step."""
RUN_CACHE = Path(".dvc/cache/runs")


def begin() -> str:
    """The reference, made beforehand since it takes the longest; returns the request's id."""
    from flows.attempt import attempt
    from flows.retrain import retrain
    from tasks.engines.ledger import Ledger
    from tasks.prepare import prepare_forget
    from tasks.versions.registry import Registry

    (request,) = Ledger(settings().ledger_url).list(LINE)
    with attempt("forget", LINE, "reference", run_name="reference") as this:
        prepare_forget(this, Registry().champion(LINE), [request.id], {})
        retrain(this)
    return request.id


def forget_once(last: int | None, during: str = "", group: bool = False) -> list[str]:
    """The flow; returns the names of its steps. It dies after step number `last`, or in the middle of step `during`."""
    from flows.forget import forget
    from tasks.engines import workspace

    if during:
        os.setsid()
        run_dvc = workspace.dvc

        def dvc(root, *args, **options):
            if " ".join(args).endswith(during):
                die = (os.killpg, os.getpgrp()) if group else (os.kill, os.getpid())
                threading.Timer(4, die[0], (die[1], signal.SIGKILL)).start()
            run_dvc(root, *args, **options)

        workspace.dvc = dvc
    with Writes(last, only=STEPS) as writes:
        forget(LINE, reference=True)
    return writes.names


def bootstrap_once(kill: bool) -> str:
    """A second line with the first one's parameters, killed where MLflow has its version and nothing else has."""
    import yaml

    from flows.bootstrap import bootstrap
    from tasks.engines.workspace import git
    from tasks.suppression import Suppression

    for entry in Suppression().all():  # or the demo's people would be refused, of whom one was forgotten
        Suppression().lift(entry.request_id)
    params = yaml.safe_load(git(settings().root, "show", f"{LINE}@v1:params.yaml"))
    with Writes(1 if kill else None, only=("mlflow create_model_version",)):
        record = bootstrap("second", "demo", None, params)
    assert record.leads
    return record.tag


def state(request_id: str) -> dict[str, object]:
    """What the stores say of the line."""
    from tasks.engines.ledger import Ledger
    from tasks.engines.workspace import git, tagged_versions
    from tasks.versions.registry import Registry

    registry, root = Registry(), settings().root
    tracking, request = registry.tracking, Ledger(settings().ledger_url).get(request_id)
    leader = registry.champion(LINE)
    experiments = [tracking.experiment(line) for line in (LINE, REFERENCES)]
    running = tracking.client.search_runs(experiments, "attributes.status = 'RUNNING'")
    with closing(sqlite3.connect(f"file:{settings().state}/prefect/prefect.db?mode=ro", uri=True)) as database:
        flows = database.execute("select name from flow_run where state_type in ('PENDING', 'RUNNING')").fetchall()
    return {
        "leader": (leader.tag, leader.verdict, leader.weights_digest),
        "versions": [len(registry.all(line)) for line in (LINE, REFERENCES)],
        "tags": [sorted(tagged_versions(root, line)) for line in (LINE, REFERENCES)],
        "request": (request.state, request.version, request.verdict),
        "running": [run.info.run_name for run in running],
        "running_flows": [name for (name,) in flows],
        "models": len(tracking.client.search_logged_models(experiments)),
        "worktrees": git(root, "worktree", "list").count("\n"),
        "work": [path.name for path in (settings().state / "work").iterdir()],
    }


class Stores:
    """A copy of every store but Prefect's and DVC's cache, to be put back in place."""

    LEFT = ("prefect", "logs")

    def __init__(self, root: Path, kept: Path) -> None:
        self.root, self.kept = root, kept
        for place in (root / ".git", *(root / ".sau").iterdir()):
            if place.name not in self.LEFT:
                _copy(place, kept / place.name)

    def put_back(self) -> None:
        for place in (self.root / ".git", *(self.root / ".sau").iterdir()):
            if place.name not in self.LEFT:
                shutil.rmtree(place) if place.is_dir() else place.unlink()
        for copy in self.kept.iterdir():
            _copy(copy, self.root / ("" if copy.name == ".git" else ".sau") / copy.name)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target) if source.is_dir() else shutil.copy2(source, target)


def steps_of(names: list[str]) -> dict[str, int]:
    """Where to kill, by a name that says it."""
    kinds = [next((kind for kind in ONCE if name.startswith(kind)), "") for name in names]
    firsts = [i for i, kind in enumerate(kinds) if not kind or kinds[i - 1] != kind]
    return {f"after {names[i]} ({i + 1})": i + 1 for i in firsts}


def main(kept: Path) -> None:
    with prefect_server():
        for name in (
            "flows.bootstrap",
            "flows.forget",
        ):  # once for all children
            import_module(name)
        request_id = in_child(begin)
        stores = Stores(settings().root, kept)
        names = in_child(forget_once, None)
        found = {"uninterrupted": in_child(state, request_id)}
        cells = [(name, (number,)) for name, number in steps_of(names).items()]
        cells += [
            ("in the middle of unlearn, all", (None, "unlearn", True)),
            ("the flow alone", (None, "unlearn", False)),
        ]
        for name, arguments in cells:
            stores.put_back()
            if len(arguments) > 1:
                shutil.rmtree(settings().root / RUN_CACHE)
            assert in_child(forget_once, *arguments) is None, f"{name}: was not killed"
            in_child(forget_once, None)
            found[name] = in_child(state, request_id)
            sys.stderr.write(f"{name}: {'as' if found[name] == found['uninterrupted'] else 'NOT as'} uninterrupted\n")
        assert in_child(bootstrap_once, True) is None, "bootstrap: was not killed"
        found["bootstrap"] = {"tag": in_child(bootstrap_once, False), "state": in_child(state, request_id)}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
