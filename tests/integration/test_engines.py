"""The engines' own room: their environment comes first, and DVC's settings survive odd names."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

PREFECT = """
import tasks.engines.orchestration
from prefect.settings import get_current_settings
found = get_current_settings()
print(found.home, found.server.analytics_enabled)
"""
MLFLOW = """
import os, sys
import sau.cli, flows.cli
import tasks.versions.status
assert not {"mlflow", "prefect", "torch", "datasets", "transformers", "scipy"} & sys.modules.keys()
import tasks.engines.tracking
print(os.environ["MLFLOW_DISABLE_TELEMETRY"], os.environ["MLFLOW_TRACKING_URI"])
import flows.forget  # what builds models and draws pictures comes when something is built or drawn
assert not {"transformers.modeling_utils", "torch._dynamo", "matplotlib"} & sys.modules.keys()
"""
WORKTREE = """
import subprocess, sys
from tasks.engines.workspace import Workspace
ws = Workspace("odd").open()
command = [sys.executable, "-m", "dvc", "config", "remote.store.url"]
said = subprocess.run(command, cwd=ws.path, capture_output=True, text=True)
print(said.stdout.strip())
ws.close()
"""
KILLED = """
import os, signal
import psutil
from flows.servers import embedded_server
embedded_server()
(server,) = psutil.Process().children()
print(server.pid, os.environ["PREFECT_API_URL"], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
FAILING = """
from pathlib import Path
from sau.errors import WorkspaceError
from tasks.engines.pins import Pin, dvc
from tasks.engines.workspace import scratch
with scratch("failing") as ws:
    params = ws.path / "params.yaml"
    params.write_text(params.read_text().replace("seed: 0", "seed: -1"))
    lost = Pin("0" * 32 + ".dir", 1, 1)
    for fail in (lambda: ws.repro("base"), lambda: dvc(ws.path, "pull", "nothing"), lambda: ws.point("data", lost)):
        try:
            fail()
        except WorkspaceError as error:
            print(error)
"""


@pytest.fixture(scope="module")
def checkout(copy_checkout, tmp_path_factory):
    return copy_checkout(tmp_path_factory.mktemp("engines") / "checkout")


def test_prefect_is_imported_with_its_environment_set(checkout):
    said = checkout.run(sys.executable, "-c", PREFECT).stdout.split()
    assert said == [f"{checkout.path}/.sau/prefect", "False"]


def test_commands_that_read_versions_load_mlflow_with_its_environment_set(checkout):
    said = checkout.run(sys.executable, "-c", MLFLOW).stdout.split()
    assert said == ["true", f"sqlite:///{checkout.path}/.sau/mlflow.db"]


@pytest.mark.parametrize("name", ["plain", "a #1, b", "it's ümlaut [x]"])
def test_a_remote_of_any_name_is_the_one_that_dvc_uses(checkout, tmp_path, name):
    remote = str(tmp_path / name)
    said = checkout.run(sys.executable, "-c", WORKTREE, SAU_DVC_REMOTE=remote).stdout
    assert said.strip() == remote


def test_what_a_step_or_dvc_refuses_is_one_line_and_all_it_said_a_file(checkout):
    of_step, of_dvc, of_bytes = checkout.run(sys.executable, "-c", FAILING).stdout.splitlines()
    assert of_step.startswith("dvc repro: ConfigError: ")
    assert "seed" in of_step
    assert of_dvc.startswith("dvc pull: ")
    assert "nothing" in of_dvc
    assert of_bytes.startswith(f"data: object {'0' * 32}.dir is not in DVC's cache, and ")
    for line, words in ((of_step, "python -m sau stage base"), (of_dvc, "ERROR: ")):
        log = Path(line.rpartition("all of it: ")[2])
        assert log.parent == checkout.path / ".sau" / "logs"
        assert log.stat().st_mode & 0o077 == 0
        assert words in log.read_text()


def test_the_prefect_server_of_a_command_that_is_killed_ends_with_it(checkout):
    said = checkout.run(sys.executable, "-c", KILLED, check=False).stdout.split()
    server = int(said[0])
    deadline = time.monotonic() + 60
    while psutil.pid_exists(server) and psutil.Process(server).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert said[1].startswith("http://127.0.0.1:")


def test_two_commands_may_be_the_first_to_open_a_store(checkout, tmp_path):
    command = [sys.executable, "-m", "sau", "line", "show", "tiny"]
    env = checkout.env(SAU_HOME=str(tmp_path / "home"))
    both = [
        subprocess.Popen(command, cwd=checkout.path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [out.strip() for out, _ in said] == ["no version of tiny"] * 2
