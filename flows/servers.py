"""Servers as children of this process: Prefect's where none is given, and the two web pages."""

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path

from sau.errors import TrackingError
from tasks.engines.pins import ORPHANED
from tasks.engines.settings import settings

_START_S = 180.0
_ANSWER_S = 10.0
_MAX_HEALTH = 1 << 10
_END_S = 3.0


def tool(name: str) -> str:
    """A program of this environment."""
    return str(Path(sys.executable).parent / name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(url: str, process: subprocess.Popen[bytes], what: str) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise TrackingError(
                f"{what}: stopped at its start with exit code {process.returncode}, see {settings().state}/logs"
            )
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.3)
    raise TrackingError(f"{what}: no answer at {url} within {_START_S:.0f} s")


@contextlib.contextmanager
def child(what: str, command: list[str], url: str, env: dict[str, str]) -> Iterator[Callable[[], None]]:
    """A server as a child process, logging below <home>/logs, ended with all it started when the block ends, and with
    this process however that ends; what is yielded waits until it answers.

    Args:
        command: a module with its arguments.
        env: on top of this process's.
    """
    logs = settings().state / "logs"
    logs.mkdir(exist_ok=True)
    with (logs / f"{what}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, ORPHANED, *command],
            stdin=subprocess.PIPE, stdout=log, stderr=log, env={**os.environ, **env}, start_new_session=True,
        )  # fmt: skip
        try:
            yield lambda: _wait_for(url, process, what)
        finally:
            end_group(process, _END_S)


def end_group(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Tell a child and all it started to end, and end what has not after so many seconds."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def prefect_server(port: int | None = None) -> Iterator[str]:
    """The API URL of the given Prefect server, or of one started here on this machine's Prefect database."""
    if given := os.environ.get("PREFECT_API_URL"):
        yield given
        return
    port = port or _free_port()
    api = f"http://127.0.0.1:{port}/api"
    env = {"PREFECT_SERVER_API_PORT": str(port), "PREFECT_UI_API_URL": api}
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with child("prefect", command, f"{api}/health", env) as wait:
        wait()
        os.environ["PREFECT_API_URL"] = api
        try:
            yield api
        finally:
            os.environ.pop("PREFECT_API_URL", None)


def embedded_server() -> Callable[[], None]:
    """A Prefect server for this process alone, where none is given; what is returned waits for whichever it is.

    It starts while the engines are imported: Prefect after it, which reads the address once and at this process's exit
    sends what it has left. Prefect's own embedded server is the same, and goes on for ever where its process is killed.
    """
    if os.environ.get("PREFECT_API_URL"):
        return check_prefect
    port = str(_free_port())
    api = f"http://127.0.0.1:{port}/api"
    command = ["uvicorn", "--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1", "--port", port]
    command += ["--log-level", "error", "--lifespan", "on"]
    env = {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    wait = stack.enter_context(child("prefect", command, f"{api}/health", env))
    os.environ["PREFECT_API_URL"] = api
    return wait


def prefect_answers() -> bool:
    """Whether the Prefect server that the environment names is there."""
    try:
        check_prefect()
    except TrackingError:
        return False
    return True


def check_prefect() -> None:
    """Ask a given Prefect server whether it is there and is one, before anything is begun.

    Raises:
        TrackingError: no answer within 10 s, or another than Prefect's.
    """
    if not (api := os.environ.get("PREFECT_API_URL")):
        return
    if (found := _health("Prefect", api.rstrip("/"), "SAU_PREFECT_API_URL")) is None:
        return
    try:
        health = json.loads(found)
    except json.JSONDecodeError:
        raise TrackingError("Prefect: what SAU_PREFECT_API_URL names is no Prefect API (it ends in /api)") from None
    except ValueError:
        raise TrackingError("Prefect: no answer from the server of SAU_PREFECT_API_URL") from None
    if health is not True:
        raise TrackingError("Prefect: what SAU_PREFECT_API_URL names is no Prefect API, or is not well")


def _health(what: str, url: str, setting: str) -> bytes | None:
    """What a given server says of its health; None where it is there, and wants to know who asks.

    Raises:
        TrackingError: no answer within 10 s, or one that is an error.
    """
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=_ANSWER_S) as answer:
            said: bytes = answer.read(_MAX_HEALTH)
            return said
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return None
        raise TrackingError(f"{what}: the server of {setting} answers with status {error.code}") from None
    except (OSError, ValueError, HTTPException):
        raise TrackingError(f"{what}: no answer from the server of {setting}") from None


def _check_mlflow(page: str) -> None:
    """Ask a given MLflow server whether it is one: what knows no experiment may be anything.

    Raises:
        TrackingError: no answer within 10 s, or another than MLflow's.
    """
    found = _health("MLflow", page, "SAU_MLFLOW_TRACKING_URI")
    if found is not None and found.strip() != b"OK":
        raise TrackingError("MLflow: what SAU_MLFLOW_TRACKING_URI names does not answer as MLflow does")


def serve_pages(mlflow_port: int, prefect_port: int, say: Callable[[str], None]) -> None:
    """MLflow's and Prefect's pages on this machine's stores, until interrupted."""
    from tasks.engines.tracking import Tracking

    loaded = settings()
    page = f"http://127.0.0.1:{mlflow_port}"
    command = [
        "mlflow", "server", "--host", "127.0.0.1", "--port", str(mlflow_port), "--workers", "1",
        "--backend-store-uri", loaded.tracking_uri, "--artifacts-destination", str(loaded.state / "mlartifacts"),
    ]  # fmt: skip
    tracking = Tracking()  # a local store that cannot be opened is said here: MLflow's server would try for an hour
    with contextlib.ExitStack() as stack:
        if loaded.mlflow_tracking_uri.startswith("http"):
            page = loaded.mlflow_tracking_uri.rstrip("/")
            _check_mlflow(page)
        else:
            env = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            stack.enter_context(child("mlflow", command, f"{page}/health", env))()
        api = stack.enter_context(prefect_server(prefect_port))
        for line in tracking.lines():
            say(f"MLflow   {line}: {page}/{tracking.page_of(line)}")
            say(f"         its versions: {page}/#/models/{line}?workflowType=machine_learning")
        say(f"Prefect  {api.removesuffix('/api')}/runs")
        say("Ctrl-C ends both.")
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
