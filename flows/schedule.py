"""Schedules: the forget flow of a line served in this process, or deployed on a Prefect server."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from flows.servers import prefect_server, tool
from sau.errors import TrackingError
from tasks.engines.settings import settings

POOL, SCHEDULED = "sau", "scheduled"


def serve_line(line: str, cron: str) -> None:
    """Run the line's forget flow on a schedule until interrupted.

    Raises:
        TrackingError: no Prefect server comes up.
    """
    with prefect_server():
        from flows.forget import forget

        forget.serve(name=f"serve-{line}", cron=cron, parameters={"line": line}, limit=1, print_starting_message=False)


def deploy_line(line: str, cron: str) -> str:
    """Create or update the deployments of prefect.yaml for a line, and their work pool; returns the forget flow's name.

    Args:
        cron: of the forget flow; the audit is quarterly, as prefect.yaml says.

    Raises:
        TrackingError: no server is given, or it refuses.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise TrackingError("deploy needs a Prefect server: set SAU_PREFECT_API_URL (`prefect server start` gives one)")
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
        tail = (done.stdout + done.stderr).strip()[-600:]
        raise TrackingError(f"prefect {args[0] if args[0][0] != '-' else args[1]}: exit {done.returncode}: {tail}")
