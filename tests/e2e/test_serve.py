"""`sau serve`: says what failed and goes on, starts its server again, and ends at once with all it started."""

import re
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from flows.cron import next_run
from sau.errors import ConfigError

CRON = "*/30 * * * * *"
"""Every half minute; a sixth field in front are seconds."""


@pytest.fixture(scope="module")
def checkout(copy_checkout, tmp_path_factory):
    return copy_checkout(tmp_path_factory.mktemp("serve") / "checkout")


def wait_until(condition, what, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def server_below(process):
    return [child for child in process.children(recursive=True) if "server" in child.cmdline()]


@pytest.mark.parametrize("cron", ["", "0 3 * *", "61 * * * *", "0 0 31 2 *", "daily"])
def test_what_never_comes_is_no_schedule(cron):
    with pytest.raises(ConfigError, match="has to be five fields"):
        next_run(cron)


@pytest.mark.server
def test_it_outlives_a_failing_run_and_a_dead_server_and_ends_with_all_it_started(checkout, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = checkout.env(SAU_MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}", SAU_MLFLOW_WAIT_S="3")
    said = tmp_path / "said.log"
    with said.open("w") as file:
        serve = subprocess.Popen(
            [sys.executable, "-m", "sau", "serve", "--line", "tiny", "--cron", CRON],
            cwd=checkout.path, env=env, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    process = psutil.Process(serve.pid)

    def failures():
        return len(re.findall(r"this run of tiny ended with exit code 1 \(an error\)", said.read_text()))

    try:
        wait_until(lambda: failures() == 1, "the first run failed")
        assert f"no answer from 127.0.0.1:{port}, see SAU_MLFLOW_TRACKING_URI" in said.read_text()
        for server in server_below(process):
            server.kill()
        wait_until(lambda: "the Prefect server has ended, and is started again" in said.read_text(), "it is noticed")
        wait_until(lambda: failures() >= 2, "it goes on")
        below = process.children(recursive=True)
        assert server_below(process)
        serve.send_signal(signal.SIGTERM)
        told = time.monotonic()
        serve.wait(20)
        assert time.monotonic() - told < 10
        wait_until(lambda: not any(child.is_running() for child in below), "all it started has ended", seconds=5)
        assert "Traceback" not in said.read_text()
    finally:
        if serve.poll() is None:
            serve.kill()
