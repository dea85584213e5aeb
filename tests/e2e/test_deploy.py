"""`sau deploy`: what is on the server stays, a schedule follows its clocks, and what was missed is run once."""

import asyncio
import json
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.workers.base import BaseJobConfiguration

from flows.cron import check_deployable, next_run
from sau.errors import ConfigError
from tasks.engines.deployments import STUCK_AFTER_S
from tasks.engines.ledger import Ledger
from tests.servers import prefect_server, process, until

TEMPLATE = json.loads((Path(__file__).resolve().parents[2] / "deploy" / "kubernetes-job.json").read_text())
BERLIN = ZoneInfo("Europe/Berlin")
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


@pytest.fixture(scope="module")
def checkout(copy_checkout, tmp_path_factory):
    return copy_checkout(tmp_path_factory.mktemp("deploy") / "checkout")


@pytest.fixture(scope="module")
def server(checkout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with prefect_server(folder, checkout.env(PREFECT_WORKER_QUERY_SECONDS="2")) as found:
        yield found


@pytest.mark.server
def test_a_teams_work_pool_stays_as_it_is(checkout, server):
    """A Kubernetes pool with its owners' limit and template takes the deployments, and nothing of it is changed."""
    server.ask("work_pools/", {"name": "team", "type": "kubernetes", "concurrency_limit": 3,
                               "base_job_template": TEMPLATE, "description": "of the platform team"})  # fmt: skip
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


@pytest.fixture
def listener():
    """An HTTP server that keeps what is posted to it, and its address."""
    got: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield got, f"http://127.0.0.1:{serving.server_port}/"
        serving.shutdown()


@pytest.mark.server
def test_alarms_reach_the_teams_block_and_are_made_once(checkout, server, listener):
    """A request that is overdue and a run that failed are told; a second deploy leaves one automation of each kind."""
    got, url = listener
    kind = server.ask("block_types/slug/custom-webhook")
    schema = server.ask("block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [kind["id"]]}}})[0]
    data = {"name": "team", "url": url, "json_data": {"text": "{{subject}} | {{body}}"}}
    body = {"name": "team", "block_type_id": kind["id"], "block_schema_id": schema["id"], "data": data}
    server.ask("block_documents/", body)
    refused = checkout.sau("deploy", "--alarm", "slack-webhook/none", check=False, **server.env)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "alarm 'slack-webhook/none': no such block on this Prefect server" in refused.stderr
    for _ in range(2):
        checkout.sau("deploy", "--alarm", "custom-webhook/team", **server.env)
    made = {automation["name"]: automation for automation in server.ask("automations/filter", {})}
    assert sorted(made) == ["sau tiny: failed", "sau tiny: overdue", "sau tiny: stuck"]
    assert made["sau tiny: stuck"]["trigger"]["posture"] == "Proactive"
    assert made["sau tiny: stuck"]["trigger"]["within"] == STUCK_AFTER_S

    ledger = Ledger(f"sqlite:///{checkout.path}/.sau/ledger.db")
    late = ledger.submit("tiny", "anna@example.org", received_at=datetime.now(UTC) - timedelta(days=90))
    other = ledger.submit("other", "ben@example.org", received_at=datetime.now(UTC) - timedelta(days=90))
    code = "from tasks.deadlines import announce; print(announce('other'), announce('tiny'))"
    checkout.run(sys.executable, "-c", code, **server.env)
    deployment = server.ask("deployments/name/doctor/stores-tiny")
    flow_run = server.ask(f"deployments/{deployment['id']}/create_flow_run", {})
    server.ask(f"flow_runs/{flow_run['id']}/set_state", {"state": {"type": "FAILED", "name": "Failed"}, "force": True})
    until(lambda: len(got) >= 2, "both are told", 120)
    assert any("sau tiny: overdue" in said and late.id in said for said in got)
    assert any("sau tiny: failed" in said and flow_run["name"] in said for said in got)
    assert not any(other.id in said or "example.org" in said for said in got)


class Job(BaseJobConfiguration):
    """What the Kubernetes worker reads of a rendered job, as far as it is ours."""

    namespace: str
    job_manifest: dict[str, Any]


@pytest.mark.server
def test_prefect_renders_a_job_from_the_template(server):
    values = {"name": "forget-tiny", "command": "prefect flow-run execute", "memory": "24Gi", "gpus": "1",
              "env": {"SAU_LEASE_S": "120"}, "labels": {"team": "platform"}}  # fmt: skip

    async def rendered():
        async with PrefectClient(api=server.api) as client:
            return await Job.from_template_and_values(TEMPLATE, values, client=client)

    job = asyncio.run(rendered())
    assert "{{" not in json.dumps(job.job_manifest)
    assert (job.namespace, job.job_manifest["metadata"]["labels"]) == ("unlearning", {"team": "platform"})
    pod = job.job_manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (container["image"], container["args"]) == ("sau", "prefect flow-run execute")
    assert container["envFrom"] == [{"secretRef": {"name": "sau-settings"}}]
    assert container["env"] == {"SAU_LEASE_S": "120"}
    assert container["resources"] == {
        "requests": {"memory": "24Gi", "cpu": "2"},
        "limits": {"memory": "24Gi", "nvidia.com/gpu": "1"},
    }
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "sau-vault"}
