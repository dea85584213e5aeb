"""A team: two workers, a checkout each, carry out what a third submits; one is killed; a clone makes it all again."""

import json
import os
import signal
from contextlib import suppress

import psutil
import pytest

from tests import postgres
from tests.conftest import Checkout
from tests.servers import process, until
from tests.small_line import options
from tests.team_stack import team_stack

pytestmark = [
    pytest.mark.team,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(postgres.programs() is None, reason="PostgreSQL is not installed"),
]
LINES = {"one": ("demo-0002", "demo-0003", "demo-0004"), "two": ("demo-0005", "demo-0006")}
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
WAIT_S = 900


@pytest.fixture(scope="module")
def team(copy_checkout, tmp_path_factory):
    """The stack's server, the officer's checkout with two lines, the workers', an idle one, and the folder of all."""
    folder = tmp_path_factory.mktemp("team")
    (folder / "home").mkdir()
    source = copy_checkout(folder / "source")
    source.git("clone", "--quiet", "--bare", str(source.path), str(folder / "hub.git"))
    hub = Checkout(folder / "hub.git")
    with team_stack(folder, source.env()) as server:
        desk, third, *workers = (hub.clone(folder / name) for name in ("desk", "third", "ada", "ben"))
        small = options(folder)
        for line in LINES:
            desk.sau("bootstrap", "--line", line, *small, **server.env)
            desk.sau("deploy", "--line", line, "--own-checkouts", **server.env)
        yield server, desk, workers, third, folder


def triggered(server, line):
    """A run of a line's forget flow, by hand; its id."""
    deployment = server.ask(f"deployments/name/forget/scheduled-{line}")
    body = {"parameters": {"line": line, "reference": True}}
    return server.ask(f"deployments/{deployment['id']}/create_flow_run", body)["id"]


def state(server, flow_run):
    return server.ask(f"flow_runs/{flow_run}")["state_type"]


def submitted(desk, line, person, env):
    return json.loads(desk.sau("request", "submit", "--line", line, "--subject", person, "--json", **env).stdout)["id"]


def worker(server, checkout, folder):
    """A worker in its own checkout, which takes one run at a time."""
    env = {**server.env, "SAU_ROOT": str(checkout.path)}
    command = ["prefect", "worker", "start", "--pool", "sau", "--limit", "1", "--name", checkout.path.name]
    return process(command, checkout.path, env, folder / f"{checkout.path.name}.log")


def versions(desk, line, env):
    return json.loads(desk.sau("line", "show", line, "--json", **env).stdout)


def test_two_lines_at_once_then_with_a_worker_killed_and_all_of_it_from_a_clone(team):
    server, desk, (ada, ben), third, folder = team
    env = server.env
    asked = {line: [submitted(desk, line, person, env) for person in people] for line, people in LINES.items()}
    with worker(server, ada, folder), worker(server, ben, folder) as second:
        runs = {line: triggered(server, line) for line in LINES}
        until(lambda: all(state(server, run) in ENDED for run in runs.values()), f"both ended, see {folder}", WAIT_S)
        logs = {name: (folder / f"{name}.log").read_text() for name in ("ada", "ben")}
        assert {state(server, run) for run in runs.values()} == {"COMPLETED"}, logs
        carried = {name: [run for run in runs.values() if run in log] for name, log in logs.items()}
        assert [len(of) for of in carried.values()] == [1, 1], "each worker carried out one"
        listed = {row["id"]: row for row in json.loads(desk.sau("request", "list", "--json", **env).stdout)}
        for line, ids in asked.items():
            assert {listed[id_]["state"] for id_ in ids} <= {"forgotten", "review"}
            found = versions(desk, line, env)
            assert [version["number"] for version in found] == list(range(1, len(found) + 1))
            assert set(found[1]["request_ids"]) == set(ids)

        late = submitted(desk, "two", "demo-0007", env)
        number = len(versions(desk, "two", env)) + 1
        run = triggered(server, "two")
        took = until(lambda: _who_works(server, run, folder), "somebody works on it", WAIT_S)
        victim = ada if took == "ada" else ben
        until(lambda: list((victim.path / ".sau" / "work").glob("forget-two-*/artifacts")), "it works", WAIT_S)
        _kill_all_below(victim.path)
        again = triggered(server, "two")
        until(lambda: state(server, again) in ENDED, f"the other one takes over, see {folder}", WAIT_S)
        assert state(server, again) == "COMPLETED"
        assert second is not None

    row = json.loads(desk.sau("request", "show", late, "--json", **env).stdout)
    assert row["state"] in ("forgotten", "review")
    assert row["attempts"] >= 2
    assert row["version"] >= number
    for line in LINES:
        assert desk.sau("doctor", "--line", line, **env).stdout.strip().endswith(f"{line}: the stores agree")

    for line in LINES:
        newest = versions(desk, line, env)[-1]
        out = ("reproduce", f"{line}@v{newest['number']}", "--rerun", "--json")
        made = json.loads(third.sau(*out, **env).stdout)
        assert (made["equal"], made["weights_digest"]) == (True, newest["weights_digest"])


def _who_works(server, run, folder):
    """The name of the worker that has begun a run; None as long as nobody has."""
    return next((name for name in ("ada", "ben") if run in (folder / f"{name}.log").read_text()), None)


def _kill_all_below(checkout):
    """Whatever runs in a checkout, at once and for good: its machine is gone."""
    for found in psutil.process_iter(["pid", "environ"]):
        if (found.info["environ"] or {}).get("SAU_ROOT") == str(checkout):
            with suppress(ProcessLookupError):
                os.kill(found.pid, signal.SIGKILL)
