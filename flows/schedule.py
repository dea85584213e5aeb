"""Schedules and pages: a Prefect server where none is given, `serve`, `deploy`, and the two web pages."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from sau.errors import TrackingError
from tasks.settings import settings

POOL = "sau"
_START_S = 180.0


def _tool(name: str) -> str:
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
def _child(what: str, command: list[str], url: str, env: dict[str, str] | None = None) -> Iterator[None]:
    """A server as a child process, logging below <home>/logs, ended with its whole group when the block ends."""
    logs = settings().state / "logs"
    logs.mkdir(exist_ok=True)
    with (logs / f"{what}.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, **(env or {})}, start_new_session=True
        )
        try:
            _wait_for(url, process, what)
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def prefect_server(port: int | None = None) -> Iterator[str]:
    """The API URL of the given Prefect server, or of one started here on this machine's Prefect database."""
    if given := os.environ.get("PREFECT_API_URL"):
        yield given
        return
    port = port or _free_port()
    api = f"http://127.0.0.1:{port}/api"
    env = {"PREFECT_SERVER_API_PORT": str(port), "PREFECT_UI_API_URL": api}
    command = [_tool("prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with _child("prefect", command, f"{api}/health", env):
        os.environ["PREFECT_API_URL"] = api
        try:
            yield api
        finally:
            os.environ.pop("PREFECT_API_URL", None)


def serve_line(line: str, cron: str) -> None:
    """Run the line's forget flow on a schedule until interrupted.

    Raises:
        TrackingError: no Prefect server comes up.
    """
    with prefect_server():
        from flows.pipeline import forget

        forget.serve(name=f"serve-{line}", cron=cron, parameters={"line": line}, limit=1, print_starting_message=False)


def deploy_line(line: str, cron: str) -> str:
    """Create or update the deployment of prefect.yaml for a line, and its work pool; returns the deployment's name.

    Raises:
        TrackingError: no server is given, or it refuses.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise TrackingError("deploy needs a Prefect server: set SAU_PREFECT_API_URL (`prefect server start` gives one)")
    name = f"scheduled-{line}"
    root = settings().root
    _prefect(["work-pool", "create", POOL, "--type", "process", "--overwrite"])
    with _prefect_file(root, line, name, cron) as file:
        _prefect(["--no-prompt", "deploy", "--prefect-file", str(file), "--name", name])
    return f"forget/{name}"


@contextlib.contextmanager
def _prefect_file(root: Path, line: str, name: str, cron: str) -> Iterator[Path]:
    """prefect.yaml with one line's name, parameter and schedule in its only deployment."""
    import yaml

    described = yaml.safe_load((root / "prefect.yaml").read_text())
    deployment = described["deployments"][0]
    deployment |= {"name": name, "parameters": deployment["parameters"] | {"line": line}}
    deployment["schedules"][0]["cron"] = cron
    file = settings().state / f"prefect-{line}.yaml"
    file.write_text(yaml.safe_dump(described, sort_keys=False))
    try:
        yield file
    finally:
        file.unlink()


def _prefect(args: list[str]) -> None:
    done = subprocess.run([_tool("prefect"), *args], capture_output=True, text=True, cwd=settings().root)
    if done.returncode:
        tail = (done.stdout + done.stderr).strip()[-600:]
        raise TrackingError(f"prefect {args[0] if args[0][0] != '-' else args[1]}: exit {done.returncode}: {tail}")


def serve_pages(mlflow_port: int, prefect_port: int, say: Callable[[str], None]) -> None:
    """MLflow's and Prefect's pages on this machine's stores, until interrupted."""
    loaded = settings()
    page = f"http://127.0.0.1:{mlflow_port}"
    command = [
        _tool("mlflow"), "server", "--host", "127.0.0.1", "--port", str(mlflow_port), "--workers", "1",
        "--backend-store-uri", loaded.tracking_uri, "--artifacts-destination", str(loaded.state / "mlartifacts"),
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        if loaded.mlflow_tracking_uri.startswith("http"):
            page = loaded.mlflow_tracking_uri
        else:
            env = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            stack.enter_context(_child("mlflow", command, f"{page}/health", env))
        api = stack.enter_context(prefect_server(prefect_port))
        say(f"MLflow   {page}/#/experiments   versions: {page}/#/models")
        say(f"Prefect  {api.removesuffix('/api')}/runs")
        say("Ctrl-C ends both.")
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
