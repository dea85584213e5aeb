"""Two workers on one line: the second waits, takes over from one that stands still, and that one writes no more."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import psutil
import pytest

from sau.data.demo import demo_people
from tasks.engines.ledger import Ledger
from tasks.engines.people import People
from tests import postgres
from tests.small_line import options

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
LEASE_S = 6


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param(
            "postgresql", marks=pytest.mark.skipif(postgres.programs() is None, reason="PostgreSQL is not installed")
        ),
    ]
)
def database(request, tmp_path):
    of_its_own = nullcontext(f"sqlite:///{tmp_path}/ledger.db")
    with postgres.server() if request.param == "postgresql" else of_its_own as url:
        yield url


@pytest.fixture
def person(database):
    """Each database has somebody else's request: the versions are of one line."""
    return "demo-0002" if database.startswith("sqlite") else "demo-0004"


@pytest.fixture(scope="module")
def bootstrapped(copy_checkout, tmp_path_factory):
    """A checkout with a small line, and the options that made it."""
    folder = tmp_path_factory.mktemp("workers")
    checkout = copy_checkout(folder / "checkout")
    checkout.sau("bootstrap", *options(folder))
    return checkout


def started(checkout, log, *command, **env):
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "sau", *command],
            cwd=checkout.path,
            env=checkout.env(**env),
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            start_new_session=True,
        )


def wait_until(condition, what, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.fixture
def first_and_children():
    """Processes that the test suspends; whatever it comes to, none is left."""
    processes: list[psutil.Process] = []
    yield processes
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def test_who_stands_still_is_succeeded_and_refused_when_it_wakes_up(
    bootstrapped, database, person, first_and_children, tmp_path
):
    """The second worker has a home of its own, as on another machine; what both share they name by URL."""
    mine = bootstrapped.path / ".sau"
    env = {
        "SAU_DATABASE_URL": database,
        "SAU_LEASE_S": str(LEASE_S),
        "SAU_MLFLOW_TRACKING_URI": f"sqlite:///{mine}/mlflow.db",
        "SAU_DVC_REMOTE": f"{mine}/remote",
    }
    line, who_is_who = ("--line", "tiny"), demo_people()
    People(Ledger(database)).name("tiny", who_is_who, who_is_who)
    asked = json.loads(bootstrapped.sau("request", "submit", *line, "--subject", person, "--json", **env).stdout)
    forget = ("forget", *line, "--reference", "--json")
    homes = {"here": str(mine), "elsewhere": str(tmp_path / "elsewhere")}
    logs = {name: tmp_path / f"{name}.log" for name in homes}
    both = {name: started(bootstrapped, logs[name], *forget, SAU_HOME=home, **env) for name, home in homes.items()}
    wait_until(lambda: any("is held by" in log.read_text() for log in logs.values()), "one waits for the other")
    second = next(name for name, log in logs.items() if "is held by" in log.read_text())
    first = next(name for name in homes if name != second)
    wait_until(lambda: "unlearn" in logs[first].read_text(), "the first worker unlearns")
    first_and_children[:] = [psutil.Process(both[first].pid), *psutil.Process(both[first].pid).children(recursive=True)]
    for process in first_and_children:
        process.suspend()
    outcome = json.loads(both[second].communicate(timeout=600)[0])
    words = logs[second].read_text()
    assert f"tiny is held by forget (process {both[first].pid} on" in words
    assert "the attempt died, open again" in words
    for process in reversed(first_and_children):
        process.resume()
    assert both[first].wait(120) == 1
    assert logs[first].read_text().strip().splitlines()[-1].startswith("LeaseError: line tiny: ")
    assert outcome["requests"] == [asked["id"]]
    assert outcome["champion"] == (outcome["verdict"] == "PASS")

    (row,) = json.loads(bootstrapped.sau("request", "list", "--json", **env).stdout)
    assert (row["state"], row["version"], row["attempts"]) == (
        "forgotten" if outcome["champion"] else "review",
        outcome["version"],
        2,
    )
    versions = json.loads(bootstrapped.sau("line", "show", "tiny", "--json", **env).stdout)
    assert [v["number"] for v in versions] == list(range(1, outcome["version"] + 1))
    assert versions[-1]["weights_digest"] == outcome["weights_digest"]
    assert [v["git_tag"] for v in versions] == [True] * len(versions)
    assert bootstrapped.sau("doctor", *line, **env).stdout.strip() == "tiny: the stores agree"
    assert [path.name for home in homes.values() for path in Path(home, "work").iterdir()] == []


def test_what_a_step_started_ends_with_the_worker(bootstrapped, tmp_path):
    """Killed alone, the flow takes DVC and the step below it along: nothing works on in a folder that is swept away."""
    bootstrapped.sau("request", "submit", "--subject", "demo-0003")
    log = tmp_path / "killed.log"
    worker = started(bootstrapped, log, "forget")
    wait_until(lambda: "unlearn" in log.read_text(), "the worker unlearns")
    wait_until(lambda: _steps(worker.pid), "a step runs below the worker")
    steps = _steps(worker.pid)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    wait_until(lambda: not any(step.is_running() for step in steps), "the step has ended", seconds=5)


def _steps(pid):
    """DVC and what it runs, below a worker."""
    found = psutil.Process(pid).children(recursive=True)
    return [process for process in found if {"dvc", "stage"} & set(process.cmdline())]
