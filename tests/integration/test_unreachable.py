"""Stores that cannot be reached or used: one line that names the setting, after a bounded wait, and no traceback."""

import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest


@pytest.fixture(scope="module")
def checkout(copy_checkout, tmp_path_factory):
    return copy_checkout(tmp_path_factory.mktemp("unreachable") / "checkout")


@contextmanager
def silent_server():
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_an_mlflow_server_that_is_down_or_silent_is_not_waited_for_long(checkout):
    with silent_server() as silent:
        ports = [free_port(), silent]
        started = time.monotonic()
        asked = [
            subprocess.Popen(
                [sys.executable, "-m", "sau", "line", "show", "tiny"],
                cwd=checkout.path,
                env=checkout.env(SAU_MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}", SAU_MLFLOW_WAIT_S="3"),
                stderr=subprocess.PIPE,
                text=True,
            )
            for port in ports
        ]
        said = [process.communicate(timeout=120)[1] for process in asked]
    assert time.monotonic() - started < 60
    assert [process.returncode for process in asked] == [1, 1]
    for port, words in zip(ports, said, strict=True):
        assert words.strip().splitlines()[-1] == (
            f"TrackingError: MLflow: versions of tiny: no answer from 127.0.0.1:{port}, see SAU_MLFLOW_TRACKING_URI"
        )
        assert "Traceback" not in words


STORES = """
import sys
from sau.errors import TrackingError
from tasks.engines.settings import Settings
from tasks.engines.tracking import Tracking
for uri in sys.argv[1:]:
    try:
        Tracking(Settings(mlflow_tracking_uri=uri)).all_registered("tiny")
    except TrackingError as error:
        print(error)
"""


def test_a_store_that_cannot_be_used_is_named_by_its_setting(checkout):
    uris = ("not a url", "foo://bar", "mysql://user:secret@host/db", "sqlite:////proc/none/mlflow.db", "http://[odd")
    said = checkout.run(sys.executable, "-c", STORES, *uris).stdout.splitlines()
    assert len(said) == len(uris)
    for line in said:
        assert line.startswith("MLflow: ")
        assert "secret" not in line
    assert all("the store of SAU_MLFLOW_TRACKING_URI cannot be opened" in line for line in said[:4])


SERVERS = """
import os, sys
from sau.errors import TrackingError
from flows.servers import check_prefect
for api in sys.argv[1:]:
    os.environ["PREFECT_API_URL"] = api
    try:
        check_prefect()
    except TrackingError as error:
        print(error)
"""


def test_a_prefect_server_that_is_not_there_is_named_by_its_setting(checkout):
    with silent_server() as silent:
        apis = ("nonsense", f"http://127.0.0.1:{free_port()}/api", f"http://127.0.0.1:{silent}/api")
        said = checkout.run(sys.executable, "-c", SERVERS, *apis).stdout.splitlines()
    assert said == ["Prefect: no answer from the server of SAU_PREFECT_API_URL"] * 3


def test_an_error_of_the_system_is_one_line_and_its_traceback_a_file(checkout, tmp_path):
    for home, env in (("/proc/none", {"TMPDIR": str(tmp_path)}), (str(checkout.path / "params.yaml"), {})):
        done = checkout.sau("request", "list", check=False, SAU_HOME=home, **env)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1
        assert "Traceback" not in done.stderr
        assert "Error: " in done.stderr
    (log,) = tmp_path.glob("sau-error-*.log")
    assert log.stat().st_mode & 0o077 == 0
    assert "Traceback" in log.read_text()
