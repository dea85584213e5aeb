"""Schedules: the forget flow of a line served in this process, or deployed on a Prefect server."""

import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from cronsim import CronSim, CronSimError

from flows.attempt import check_line
from flows.servers import check_prefect, end_group, prefect_answers, prefect_server, tool
from sau.errors import ConfigError, TrackingError
from tasks.engines.settings import settings
from tasks.engines.workspace import ORPHANED, keep_log

log = logging.getLogger("sau")

POOL, SCHEDULED = "sau", "scheduled"
_LOOK_S = 15.0
_END_S = 4.0
"""So long a run has to put its requests back when this process is told to end."""
_MEANINGS = {1: "an error", 3: "FAIL", 4: "INCONCLUSIVE", 5: "REFUSED"}


def serve_line(line: str, cron: str) -> None:
    """Run the line's forget flow on a schedule until told to end.

    Each run is a process of its own, which says on this terminal what it does and why it failed; this one goes on. A
    Prefect server that was started here and has died is started again. What was missed (a laptop asleep, a run longer
    than the time between two) is run once.

    Raises:
        ConfigError: a malformed line or cron expression.
        TrackingError: no Prefect server comes up.
    """
    check_line(line)
    next_run(cron)
    check_prefect()
    own = not os.environ.get("PREFECT_API_URL")
    with contextlib.ExitStack() as server:
        server.enter_context(prefect_server())
        while True:
            at = next_run(cron)
            log.info("the next run of %s is at %s UTC", line, f"{at:%Y-%m-%d %H:%M}")
            while (left_s := (at - datetime.now(UTC)).total_seconds()) > 0:
                time.sleep(min(left_s, _LOOK_S))  # a clock goes on while a laptop sleeps, a long sleep does not
            if own and not prefect_answers():
                log.warning("the Prefect server has ended, and is started again")
                server.close()
                server.enter_context(prefect_server())
            if code := _run_once(line):
                log.warning("this run of %s ended with exit code %d (%s)", line, code, _MEANINGS.get(code, "killed"))


def next_run(cron: str) -> datetime:
    """When a cron expression, in UTC, is due next.

    Raises:
        ConfigError: it is none.
    """
    try:
        return next(CronSim(cron, datetime.now(UTC)))
    except (CronSimError, StopIteration):
        raise ConfigError(f"cron {cron!r}: has to be five fields such as '0 3 * * *' that come true some day") from None


def _run_once(line: str) -> int:
    """`sau forget` as a child, whose exit code is returned; it ends with this process."""
    command = [sys.executable, ORPHANED, "sau", "forget", "--line", line]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        return process.wait()
    finally:
        end_group(process, _END_S)


def deploy_line(line: str, cron: str) -> str:
    """Create or update the deployments of prefect.yaml for a line, and their work pool; returns the forget flow's name.

    Args:
        cron: of the forget flow; the audit is quarterly, as prefect.yaml says.

    Raises:
        TrackingError: no server is given, it does not answer, or it refuses.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise TrackingError("deploy needs a Prefect server: set SAU_PREFECT_API_URL (`prefect server start` gives one)")
    check_prefect()
    root = settings().root
    _prefect(["work-pool", "create", POOL, "--type", "process", "--overwrite"])
    with _prefect_file(root, line, cron) as file:
        _prefect(["--no-prompt", "deploy", "--prefect-file", str(file), "--all"])
    return f"forget/{SCHEDULED}-{line}"


@contextlib.contextmanager
def _prefect_file(root: Path, line: str, cron: str) -> Iterator[Path]:
    """prefect.yaml with one line's names and parameters, and the forget flow's schedule."""
    import yaml

    described = yaml.safe_load((root / "prefect.yaml").read_text())
    for deployment in described["deployments"]:
        if deployment["name"] == SCHEDULED:
            deployment["schedules"][0]["cron"] = cron
        deployment |= {
            "name": f"{deployment['name']}-{line}",
            "parameters": deployment["parameters"] | {"line": line},
        }
    file = settings().state / f"prefect-{line}.yaml"
    file.write_text(yaml.safe_dump(described, sort_keys=False))
    try:
        yield file
    finally:
        file.unlink()


def _prefect(args: list[str]) -> None:
    done = subprocess.run([tool("prefect"), *args], capture_output=True, text=True, cwd=settings().root)
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines() or [f"exit {done.returncode}"]
        what = args[0] if args[0][0] != "-" else args[1]
        raise TrackingError(f"prefect {what}: {said[-1]}; all of it: {keep_log('prefect', said)}")
