"""`sau deploy`: what is on the server stays, a schedule follows its clocks, and what was missed is run once."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from flows.cron import check_deployable, next_run
from sau.errors import ConfigError

BERLIN = ZoneInfo("Europe/Berlin")
TOOLS = Path(sys.executable).parent
NAMES = ["forget/scheduled-tiny", "audit/audit-tiny", "doctor/stores-tiny", "purge/by-hand-tiny"]


@pytest.mark.parametrize(
    ("cron", "after", "due"),
    [
        ("0 3 * * *", datetime(2027, 3, 27, 12, tzinfo=UTC), ["03-28 03:00+0200", "03-29 03:00+0200"]),
        ("30 2 * * *", datetime(2027, 3, 27, 12, tzinfo=UTC), ["03-28 03:00+0200", "03-29 02:30+0200"]),  # skipped
        ("30 2 * * *", datetime(2026, 10, 24, 12, tzinfo=UTC), ["10-25 02:30+0200", "10-26 02:30+0100"]),  # twice
    ],
)
def test_once_a_day_whatever_the_clocks_do(cron, after, due):
    found = []
    for _ in due:
        after = next_run(cron, "Europe/Berlin", after)
        found.append(f"{after.astimezone(BERLIN):%m-%d %H:%M%z}")
    assert found == due


@pytest.mark.parametrize(
    ("cron", "timezone", "words"),
    [
        ("61 * * * *", "UTC", "has to be five fields"),
        ("0 0 3 * * *", "UTC", "knows no seconds"),
        ("0 3 * * *", "Europe/Berln", "did you mean Europe/Berlin?"),
        ("0 3 * * *", "", "IANA name"),
        ("0 3 * * *", "../etc/passwd", "IANA name"),
    ],
)
def test_what_a_server_would_not_take_is_refused_first(cron, timezone, words):
    with pytest.raises(ConfigError, match="has to be") as caught:
        check_deployable(cron, timezone)
    assert words in str(caught.value)


def test_the_refusal_comes_before_prefect_is_imported():
    """One line, exit 1; the whole of Prefect and torch stays out of the process."""
    code = (
        "import sys; sys.argv = ['sau', 'deploy', '--cron', '61 3 * * *']\n"
        "from sau.cli import main\n"
        "try: main()\n"
        "except SystemExit as e: print(e.code, {'prefect', 'mlflow', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "1 set()"
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("ConfigError: cron '61 3 * * *'")


class Server:
    """A Prefect server, asked over HTTP."""

    def __init__(self, api: str, env: dict[str, str], log: Path) -> None:
        self.api, self.env, self.log = api, env, log

    def ask(self, path: str, body: dict | None = None, method: str | None = None):
        """What it answers: a GET, or a POST of a body; None for 404."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.api}/{path}", data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise


@contextmanager
def process(command, folder, env, log):
    """A program of this environment; what it started ends with the block."""
    with log.open("ab") as file:
        child = subprocess.Popen(
            [str(TOOLS / command[0]), *command[1:]], cwd=folder, env=env, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield child
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(child.pid, number)
                child.wait(20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def until(condition, what, seconds=180):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def checkout(copy_checkout, tmp_path_factory):
    return copy_checkout(tmp_path_factory.mktemp("deploy") / "checkout")


@pytest.fixture(scope="module")
def server(checkout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    env = checkout.env(
        PREFECT_HOME=str(folder), PREFECT_API_URL=api, PREFECT_SERVER_API_PORT=str(port), SAU_PREFECT_API_URL=api,
        PREFECT_SERVER_ANALYTICS_ENABLED="false", DO_NOT_TRACK="1", PATH=f"{TOOLS}{os.pathsep}{os.environ['PATH']}",
        PREFECT_WORKER_QUERY_SECONDS="2",
    )  # fmt: skip
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with process(command, checkout.path, env, folder / "log"):
        found = Server(api, env, folder / "log")

        def answers():
            try:
                return found.ask("health")
            except OSError:
                return False

        until(answers, "the server answers")
        yield found


@pytest.mark.server
def test_a_teams_work_pool_stays_as_it_is(checkout, server):
    """A Kubernetes pool with its owners' limit and template takes the deployments, and nothing of it is changed."""
    template = {"job_configuration": {"image": "{{ image }}", "namespace": "unlearning"}, "variables": {
        "type": "object", "properties": {"image": {"type": "string", "default": "registry.example/sau"}}}}  # fmt: skip
    server.ask("work_pools/", {"name": "team", "type": "kubernetes", "concurrency_limit": 3,
                               "base_job_template": template, "description": "of the platform team"})  # fmt: skip
    before = server.ask("work_pools/team")
    options = ("--cron", "30 2 * * *", "--timezone", "Europe/Berlin", "--pool", "team")
    said = checkout.sau("deploy", *options, **server.env).stdout
    assert "work pool team (kubernetes)" in said
    kept = ("id", "type", "concurrency_limit", "base_job_template", "description", "is_paused")
    after = server.ask("work_pools/team")
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}
    assert server.ask("work_pools/sau") is None

    found = {name: server.ask(f"deployments/name/{name}") for name in NAMES}
    assert {name: deployment["work_pool_name"] for name, deployment in found.items()} == dict.fromkeys(NAMES, "team")
    schedules = {name: [s["schedule"] for s in deployment["schedules"]] for name, deployment in found.items()}
    assert {name: [(s["cron"], s["timezone"]) for s in of] for name, of in schedules.items()} == {
        "forget/scheduled-tiny": [("30 2 * * *", "Europe/Berlin")],
        "audit/audit-tiny": [("0 5 1 */3 *", "Europe/Berlin")],
        "doctor/stores-tiny": [("0 1 * * *", "Europe/Berlin")],
        "purge/by-hand-tiny": [],
    }
    asked = {"deployments": {"id": {"any_": [found["forget/scheduled-tiny"]["id"]]}}, "limit": 200}
    planned = until(lambda: server.ask("flow_runs/filter", asked), "the server plans the next runs")
    times = {datetime.fromisoformat(run["expected_start_time"]).astimezone(BERLIN) for run in planned}
    assert {(at.hour, at.minute) for at in times} == {(2, 30)}

    code = "from tasks.installation import installation\nfor found in installation('tiny'): print(found.words)"
    words = checkout.run(sys.executable, "-c", code, **server.env).stdout
    assert words == "no worker of the pool team is there; `prefect worker start --pool team`\n"
    server.ask(f"deployments/{found['forget/scheduled-tiny']['id']}/pause_deployment", {})
    assert "forget/scheduled-tiny is paused" in checkout.run(sys.executable, "-c", code, **server.env).stdout

    refused = checkout.sau("deploy", "--pool", "taem", check=False, **server.env)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "work pool 'taem': is not on this Prefect server" in refused.stderr
    assert server.ask("work_pools/taem") is None


@pytest.mark.server
def test_what_was_missed_is_run_once_in_the_workers_own_checkout(checkout, server, tmp_path):
    """The pool `sau` is made where it is missing, and a limit given to it later stays. After an outage of five days one
    run of five is carried out, in the checkout that the worker names; what somebody asked for by hand is too."""
    checkout.sau("deploy", "--own-checkouts", **server.env)
    made = server.ask("work_pools/sau")
    assert (made["type"], made["concurrency_limit"]) == ("process", None)
    assert made["base_job_template"]["variables"]["properties"]
    server.ask("work_pools/sau", {"concurrency_limit": 2}, "PATCH")
    checkout.sau("deploy", "--own-checkouts", **server.env)
    assert server.ask("work_pools/sau")["concurrency_limit"] == 2

    deployment = server.ask("deployments/name/doctor/stores-tiny")
    now = datetime.now(UTC)
    outage = {"start_time": (now - timedelta(days=5)).isoformat(), "end_time": now.isoformat(), "min_runs": 5}
    server.ask(f"deployments/{deployment['id']}/schedule", outage)
    by_hand = server.ask(f"deployments/{deployment['id']}/create_flow_run", {})["id"]

    def runs():
        asked = {"flow_runs": {"deployment_id": {"any_": [deployment["id"]]}}, "limit": 200}
        return [r for r in server.ask("flow_runs/filter", asked) if r["expected_start_time"] <= now.isoformat()
                or r["id"] == by_hand]  # fmt: skip

    assert len(runs()) == 6
    other = checkout.clone(tmp_path / "other")
    worker = ["prefect", "worker", "start", "--pool", "sau"]
    env = server.env | {"SAU_ROOT": str(other.path)}
    with process(worker, tmp_path, env, tmp_path / "worker.log"):
        until(
            lambda: all(run["state_type"] in ("COMPLETED", "CANCELLED", "FAILED", "CRASHED") for run in runs()),
            f"all runs have ended: {tmp_path}/worker.log",
        )
    ended = [run["state_type"] for run in runs() if run["auto_scheduled"]]
    words = Path(tmp_path / "worker.log").read_text()
    assert sorted(ended) == ["CANCELLED"] * 4 + ["COMPLETED"], words[-3000:]
    assert [run["state_type"] for run in runs() if run["id"] == by_hand] == ["COMPLETED"]
    assert (other.path / ".sau" / "ledger.db").is_file()
