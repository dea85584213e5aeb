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


WRITTEN_TO = """
import sqlite3
from sau.errors import TrackingError
from tasks.engines.settings import settings
from tasks.engines.tracking import Tracking
tracking = Tracking()
tracking.experiment("tiny")
other = sqlite3.connect(settings().state / "mlflow.db", isolation_level=None)
other.execute("BEGIN IMMEDIATE")
print(tracking.experiment("tiny"))
try:
    tracking.experiment("another")
except TrackingError as error:
    print(error)
"""


@pytest.mark.long
def test_a_local_store_that_somebody_writes_to_for_long_can_be_read_and_is_said_to_be_busy(checkout, tmp_path):
    done = checkout.run(sys.executable, "-c", WRITTEN_TO, SAU_HOME=str(tmp_path))
    known, said = done.stdout.splitlines()
    assert known == "1"
    assert said == "MLflow: experiment another: its database is locked, or does not answer; run this again when it does"
    assert "Traceback" not in done.stderr


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


def test_a_state_folder_that_cannot_be_used_is_named_in_one_line(checkout):
    for home in ("/proc/none", str(checkout.path / "params.yaml")):
        done = checkout.sau("request", "list", check=False, SAU_HOME=home)
        assert done.returncode == 1
        assert done.stderr.startswith(f"ConfigError: {home}: cannot be used (")
        assert done.stderr.endswith("), see SAU_HOME\n")


def test_a_setting_that_is_not_what_it_has_to_be_is_named_in_one_line(checkout):
    done = checkout.sau("request", "list", check=False, SAU_LEASE_S="soon", SAU_PURGE_PEOPLE="9")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "SAU_LEASE_S: " in done.stderr
    assert "SAU_PURGE_PEOPLE: " in done.stderr


def test_an_error_of_the_system_is_one_line_and_its_traceback_a_file(checkout, tmp_path):
    (tmp_path / "keys").write_text("")
    done = checkout.sau("certificate", "key", check=False, SAU_HOME=str(tmp_path))
    assert done.returncode == 1
    (log,) = (tmp_path / "logs").glob("sau-error-*.log")
    assert done.stderr == f"FileExistsError: File exists: see {log}\n"
    assert log.stat().st_mode & 0o077 == 0
    assert "Traceback" in log.read_text()


def test_a_remote_that_is_a_relative_folder_lies_below_the_checkout(checkout):
    script = "from tasks.engines.settings import Settings; print(*(Settings(dvc_remote=r).remote_url for r in {!r}))"
    said = checkout.run(sys.executable, "-c", script.format(("../r", "s3://b/r", "/r"))).stdout.split()
    assert said == [str(checkout.path.parent / "r"), "s3://b/r", "/r"]


ROOM = """
import os, sys
from sau.errors import WorkspaceError
from tasks.engines.room import check_room
from tasks.engines.settings import settings
for remote, num_bytes in (("params.yaml", 0), ("/proc/none", 0), ("new/remote", 1 << 60), ("new/remote", 1)):
    os.environ["SAU_DVC_REMOTE"] = remote
    settings.cache_clear()
    try:
        check_room(num_bytes)
        print("room")
    except WorkspaceError as error:
        print(error)
"""


def test_a_store_that_cannot_be_written_to_or_is_too_small_is_named_before_anything_is_trained(checkout):
    no_folder, nowhere, small, room = checkout.run(sys.executable, "-c", ROOM).stdout.splitlines()
    assert no_folder == f"SAU_DVC_REMOTE: {checkout.path}/params.yaml cannot be written to (Not a directory)"
    assert nowhere.startswith("SAU_DVC_REMOTE: /proc/none cannot be written to (")
    assert f"SAU_HOME: {checkout.path}/.sau has " in small
    assert f"bytes left, at least {1 << 60:,} are needed" in small
    assert room == "room"
    assert not (checkout.path / "new").exists(), "it was only asked"
