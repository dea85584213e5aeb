"""Servers and workers as processes of a test's own, and a Prefect server that can be asked."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TOOLS = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A Prefect server, asked over HTTP."""

    def __init__(self, api: str, env: dict[str, str]) -> None:
        self.api, self.env = api, env

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
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
def process(command: list[str], folder: Path, env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
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


def until(condition: Callable[[], Any], what: str, seconds: float = 180) -> Any:
    """What a condition comes to, as soon as that is something."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.5)
    return found


def answers(url: str) -> bool:
    """Whether a server is there."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


@contextmanager
def prefect_server(folder: Path, env: Mapping[str, str]) -> Iterator[Server]:
    """A Prefect server that keeps what it has in a folder, and the environment of those who use it."""
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    env = {
        **env, "PREFECT_HOME": str(folder), "PREFECT_API_URL": api, "SAU_PREFECT_API_URL": api,
        "PREFECT_SERVER_API_PORT": str(port), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1",
        "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with process(command, folder, env, folder / "log"):
        until(lambda: answers(f"{api}/health"), f"the Prefect server answers, see {folder}/log")
        yield Server(api, env)
