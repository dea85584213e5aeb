"""Deployments: the flows of a line on a Prefect server, for the workers of a team; what is there already stays."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from flows.attempt import check_line
from flows.cron import check_deployable
from flows.servers import check_prefect, tool
from sau.errors import TrackingError
from tasks.engines.deployments import notification_block, process_pool, set_alarms, work_pool_type
from tasks.engines.pins import keep_log
from tasks.engines.settings import settings
from tasks.installation import SCHEDULED

POOL = "sau"
OF_THE_WORKER = [{"prefect.deployments.steps.set_working_directory": {"directory": "{{ $SAU_ROOT }}"}}]
"""The pull step of workers that have a checkout each; else Prefect writes this checkout's folder down."""


class Deployed(BaseModel):
    """What `deploy_line` has put on the server.

    Attributes:
        names: of the deployments, as `prefect deployment run` takes them.
        pool_type: process, kubernetes or whatever the team has made it.
        alarms: automations that tell somebody.
    """

    model_config = ConfigDict(frozen=True)

    names: tuple[str, ...]
    pool: str
    pool_type: str
    alarms: tuple[str, ...] = ()


def deploy_line(
    line: str, cron: str, timezone: str = "UTC", pool: str = POOL, *, own_checkouts: bool = False, alarm: str = ""
) -> Deployed:
    """Create or update the deployments of prefect.yaml for a line.

    A work pool that is there stays as it is: its type, concurrency limit and base job template are its owners'. Only
    the pool `sau` is made, of processes, where it is missing.

    Args:
        cron: of the forget flow; the others' are in prefect.yaml.
        timezone: of all of them.
        own_checkouts: each worker runs in the checkout that its SAU_ROOT names, not in this one's folder.
        alarm: the server's notification block, as TYPE/NAME, that alarms go through; "": alarms stay as they are.

    Raises:
        ConfigError: a malformed line, cron expression or time zone.
        TrackingError: no server is given, it does not answer, it refuses, or it has no such work pool or block.
    """
    check_line(line)
    check_deployable(cron, timezone)
    if not os.environ.get("PREFECT_API_URL"):
        raise TrackingError("deploy needs a Prefect server: set SAU_PREFECT_API_URL (`prefect server start` gives one)")
    check_prefect()
    block = notification_block(alarm) if alarm else None
    if (pool_type := work_pool_type(pool)) is None:
        if pool != POOL:
            raise TrackingError(
                f"work pool {pool!r}: is not on this Prefect server; `prefect work-pool create {pool} --type process` "
                "(or docker, kubernetes) makes it"
            )
        pool_type = process_pool(pool)
    root = settings().root
    described = _described(root, line, cron, timezone, pool)
    if own_checkouts:
        described["pull"] = OF_THE_WORKER
    with _written(described, line) as file:
        _deploy(file)
    names = tuple(f"{d['entrypoint'].split('.')[1]}/{d['name']}" for d in described["deployments"])
    alarms = set_alarms(line, names, block) if block else ()
    return Deployed(names=names, pool=pool, pool_type=pool_type, alarms=alarms)


def _described(root: Path, line: str, cron: str, timezone: str, pool: str) -> dict[str, Any]:
    """prefect.yaml with one line's names and parameters, the pool, and the schedules' time zone."""
    import yaml

    described = yaml.safe_load((root / "prefect.yaml").read_text(encoding="utf-8"))
    for deployment in described["deployments"]:
        for schedule in deployment.get("schedules", ()):
            schedule["timezone"] = timezone
            if deployment["name"] == SCHEDULED:
                schedule["cron"] = cron
        deployment |= {
            "name": f"{deployment['name']}-{line}",
            "parameters": deployment["parameters"] | {"line": line},
            "work_pool": deployment.get("work_pool", {}) | {"name": pool},
        }
    return described


@contextlib.contextmanager
def _written(described: dict[str, Any], line: str) -> Iterator[Path]:
    """A description as the file that `prefect deploy` reads."""
    import yaml

    file = settings().state / f"prefect-{line}-{os.getpid()}.yaml"
    file.write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
    try:
        yield file
    finally:
        file.unlink()


def _deploy(file: Path) -> None:
    command = [tool("prefect"), "--no-prompt", "deploy", "--prefect-file", str(file), "--all"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=settings().root)
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines() or [f"exit {done.returncode}"]
        raise TrackingError(f"prefect deploy: {said[-1]}; all of it: {keep_log('prefect', said)}")
