"""Run in a checkout: a flow is stopped at every step of it in turn, in one way or another, and run again; prints JSON.

The places are those that an uninterrupted run comes by: before and after every tracked step, in the middle of it, and
between each two writes of register and promote. The ways are `tests.killing.KINDS`. Every cell begins from the same
stores; DVC's cache stays, so a step that was done once comes from it.

    python tests/e2e/killed_flows.py bootstrap|forget KEPT some|all OPTION ...
"""

import contextlib
import ctypes
import json
import os
import random
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import psutil

from flows.servers import prefect_server
from tasks.engines.settings import settings
from tests.apart import Stores, in_child, in_fork
from tests.killing import AFTER, BEFORE, KINDS, Writes

LINE, REFERENCES = "tiny", "tiny-retrain"
WRITERS = ("register", "promote")
"""Steps of which every write is a place."""
SEED = 17
RUN_CACHE = Path(".dvc/cache/runs")
_ORPHANS_S = 15.0
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Place:
    """Where a flow is stopped.

    Attributes:
        step: of the flow.
        where: before, in the middle, after, or after which write.
        number: of the moment, from 1.
        after_s: so long after it.
    """

    step: str
    where: str
    number: int
    after_s: float = 0

    @property
    def kinds(self) -> list[str]:
        """What can be done here: a child works below the flow in the middle of a stage alone."""
        return [kind for kind in KINDS if kind != "kill child" or (self.step.startswith("stage ") and self.after_s)]


def begin() -> None:
    """The reference, made beforehand since it takes the longest."""
    from flows.attempt import attempt
    from flows.retrain import retrain
    from tasks.engines.ledger import Ledger
    from tasks.prepare import prepare_forget
    from tasks.versions.registry import Registry

    (request,) = Ledger(settings().ledger_url).list(LINE)
    with attempt("forget", LINE, "reference", run_name="reference") as this:
        prepare_forget(this, Registry().champion(LINE), [request.id], {})
        retrain(this)


def command(argv: list[str]) -> int:
    """`sau` with these arguments in this process; its exit code."""
    from sau.cli import main

    sys.argv = ["sau", *argv]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    return 0


def recorded(argv: list[str]) -> list[tuple[str, float]]:
    """The moments of an uninterrupted run: what was about to be or was done, and when."""
    with Writes(steps=True) as writes:
        assert command(argv) == 0
    return list(zip(writes.names, writes.times, strict=True))


def stopped(argv: list[str], place: Place, kind: str) -> int:
    """A run that is stopped at a place; its exit code, where it lives to have one."""
    with Writes(place.number, steps=True, stop=KINDS[kind], after_s=place.after_s):
        return command(argv)


def places_of(moments: list[tuple[str, float]]) -> list[Place]:
    """Every place of a run, in order."""
    found: list[Place] = []
    begun: dict[str, int] = {}
    for number, (name, at) in enumerate(moments, 1):
        inside = next(reversed(begun), "")
        if name.startswith(BEFORE):
            step = name.removeprefix(BEFORE)
            begun[step] = number
            found.append(Place(step, "before", number))
        elif name.startswith(AFTER):
            step = name.removeprefix(AFTER)
            first = begun.pop(step)
            if step not in WRITERS:
                took = at - moments[first - 1][1]
                found.append(Place(step, "in the middle", first, took / 2))
            found.append(Place(step, "after", number))
        elif inside in WRITERS:
            found.append(Place(inside, f"after {name}", number))
    last = moments[-1][0]
    if not last.startswith(AFTER):
        found.append(Place("the ledger", f"after {last}", len(moments)))
    return found


def chosen(places: list[Place], everything: bool) -> Iterator[tuple[Place, str]]:
    """Cells: every place in every way, or every place in one way, so that each way is taken about as often.

    Where nothing lies between the end of a step and the beginning of the next, either is taken and not both.
    """
    if everything:
        yield from ((place, kind) for place in places for kind in place.kinds)
        return
    draw = random.Random(SEED)
    taken = dict.fromkeys(KINDS, 0)
    apart: list[Place] = []
    for place in places:
        if apart and place.where == "before" and apart[-1].where == "after" and place.number == apart[-1].number + 1:
            if draw.random() < 0.5:
                continue
            apart.pop()
        apart.append(place)
    for place in sorted(apart, key=lambda place: len(place.kinds)):
        kind = min(place.kinds, key=lambda kind: (taken[kind], draw.random()))
        taken[kind] += 1
        yield place, kind


def state(line: str) -> dict[str, object]:
    """What the stores say of the line."""
    from sau.certificate.envelope import public_pem
    from sau.certificate.log import read_log
    from tasks.certify import log_folder
    from tasks.engines.keys import signing_key
    from tasks.engines.ledger import Ledger
    from tasks.engines.repository import git, tagged_versions
    from tasks.versions.registry import Registry

    registry, root = Registry(), settings().root
    tracking, ledger = registry.tracking, Ledger(settings().ledger_url)
    leader, lines = registry.champion(line), [line, f"{line}-retrain"]
    experiments = [tracking.experiment(name) for name in lines]
    running = tracking.client.search_runs(experiments, "attributes.status = 'RUNNING'")
    with closing(sqlite3.connect(f"file:{os.environ['PREFECT_HOME']}/prefect.db?mode=ro", uri=True)) as database:
        flows = database.execute("select name from flow_run where state_type in ('PENDING', 'RUNNING')").fetchall()
    work = settings().state / "work"
    return {
        "leader": (leader.tag, leader.verdict, leader.weights_digest, leader.mask_digest, leader.side_digest),
        "versions": [[(v.tag, v.verdict, v.weights_digest) for v in registry.all(name)] for name in lines],
        "tags": [sorted(tagged_versions(root, name)) for name in lines],
        "requests": [(r.state, r.version, r.verdict, _history(ledger, r.id)) for r in ledger.list(line)],
        "records": len(read_log(log_folder(), public_pem(signing_key()))) if log_folder().is_dir() else 0,
        "running": [run.info.run_name for run in running],
        "running_flows": [name for (name,) in flows],
        "models": len(tracking.client.search_logged_models(experiments)),
        "worktrees": git(root, "worktree", "list").count("\n"),
        "work": [path.name for path in work.iterdir()] if work.is_dir() else [],
    }


def in_between(line: str) -> str:
    """What is wrong with what consumers see of the line, before anybody runs again; "" where nothing is."""
    from sau.checkpoint.manifest import check_files
    from tasks.versions.registry import Registry

    registry = Registry()
    if (leader := registry.find(line)) is None:
        return ""
    stored = check_files(registry.download(leader))
    whole = (stored.weights_digest, stored.mask_digest) == (leader.weights_digest, leader.mask_digest)
    return "" if whole and leader.may_lead else f"{leader.tag}, {leader.verdict}: leads"


def _history(ledger: object, request_id: str) -> list[str]:
    """How it began and ended, and whether it ended once: between lies what the attempts tried."""
    states = [state for _, state in ledger.events(request_id)]  # type: ignore[attr-defined]
    tried = all(state in ("running", "open") for state in states[1:-1])
    return [states[0], states[-1], "once" if tried else " ".join(states)]


def left_running(of_driver: set[int]) -> list[str]:
    """What a stopped flow has left: this process adopts it, and waits a little for its end."""
    deadline = time.monotonic() + _ORPHANS_S
    while True:
        left = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.pid not in of_driver and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(" ".join(process.cmdline())[:100])
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    break
            except ChildProcessError:
                break
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.2)


def forget_run(step: str) -> None:
    """Take out of DVC's run cache what would spare a stage its work; the empty folder stays, as after a crash."""
    if not step.startswith("stage "):
        return
    for path in RUN_CACHE.glob("*/*/*"):
        if f"sau {step}" in path.read_text(errors="replace"):
            path.unlink()


def main(flow: str, kept: Path, how_many: str, options: list[str]) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    argv = ["forget", "--line", LINE, "--reference"] if flow == "forget" else ["bootstrap", "--line", LINE, *options]
    with prefect_server():
        for name in ("flows.bootstrap", "flows.forget", "flows.cli"):  # once for all children
            import_module(name)
        if flow == "forget":
            in_child(begin)
        stores = Stores(kept, settings().root / ".git", settings().state)
        moments = in_child(recorded, argv)
        right = in_child(state, LINE)
        found = {"uninterrupted": right, "cells": []}
        own = {process.pid for process in psutil.Process().children(recursive=True)}
        for place, kind in chosen(places_of(moments), how_many == "all"):
            stores.put_back()
            forget_run(place.step if place.where == "in the middle" else "")
            code = in_fork(stopped, argv, place, kind)
            orphans = left_running(own)
            seen = in_child(in_between, LINE)
            again = [in_fork(command, argv)]
            if flow == "bootstrap" and again == [1]:  # a line is bootstrapped once: this one was
                again.append(in_fork(command, ["doctor", "--line", LINE]))
            after = in_child(state, LINE)
            cell = {"step": place.step, "where": place.where, "kind": kind, "code": code, "again": again}
            cell["number"] = place.number + place.after_s / 1e6
            cell |= {"orphans": orphans, "seen": seen}
            cell["differs"] = {key: [value, after[key]] for key, value in right.items() if value != after[key]}
            found["cells"].append(cell)
            sys.stderr.write(f"CELL {json.dumps(cell)}\n")
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
