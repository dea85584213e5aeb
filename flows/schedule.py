"""A schedule in this process: the forget flow of a line, run again and again until told to end."""

import contextlib
import logging
import os
import subprocess
import sys
import time
from datetime import UTC, datetime

from flows.attempt import check_line
from flows.cron import next_run
from flows.servers import check_prefect, end_group, prefect_answers, prefect_server
from tasks.engines.pins import ORPHANED

log = logging.getLogger("sau")

_LOOK_S = 15.0
_END_S = 4.0
"""So long a run has to put its requests back when this process is told to end."""
_MEANINGS = {1: "an error", 3: "FAIL", 4: "INCONCLUSIVE", 5: "REFUSED"}


def serve_line(line: str, cron: str, timezone: str = "UTC") -> None:
    """Run the line's forget flow on a schedule until told to end.

    Each run is a process of its own, which says on this terminal what it does and why it failed; this one goes on. A
    Prefect server that was started here and has died is started again. What was missed (a laptop asleep, a run longer
    than the time between two) is run once.

    Raises:
        ConfigError: a malformed line, cron expression or time zone.
        TrackingError: no Prefect server comes up.
    """
    check_line(line)
    next_run(cron, timezone)
    check_prefect()
    own = not os.environ.get("PREFECT_API_URL")
    with contextlib.ExitStack() as server:
        server.enter_context(prefect_server())
        while True:
            at = next_run(cron, timezone)
            log.info("the next run of %s is at %s UTC", line, f"{at:%Y-%m-%d %H:%M}")
            while (left_s := (at - datetime.now(UTC)).total_seconds()) > 0:
                time.sleep(min(left_s, _LOOK_S))  # a clock goes on while a laptop sleeps, a long sleep does not
            if own and not prefect_answers():
                log.warning("the Prefect server has ended, and is started again")
                server.close()
                server.enter_context(prefect_server())
            if code := _run_once(line):
                log.warning("this run of %s ended with exit code %d (%s)", line, code, _MEANINGS.get(code, "killed"))


def _run_once(line: str) -> int:
    """`sau forget` as a child, whose exit code is returned; it ends with this process."""
    command = [sys.executable, ORPHANED, "sau", "forget", "--line", line]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        return process.wait()
    finally:
        end_group(process, _END_S)
