"""The installation: versions, who may read its files, room, clocks and the line's schedule, each with what mends it."""

import os
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, version

from packaging.requirements import Requirement

from sau.errors import SauError, WorkspaceError
from tasks.engines.database import now
from tasks.engines.deployments import schedule_of
from tasks.engines.ledger import Ledger
from tasks.engines.room import check_room
from tasks.engines.settings import settings
from tasks.reconcile import Finding

SCHEDULED = "scheduled"
"""What the forget flow's deployment is called in prefect.yaml, before the line."""
_APART_S = 30.0
"""Clocks that lie further apart are not one time: a lease is 60 s."""
_FREE_BYTES = 1 << 30
_ANSWER_S = 10.0
_MAX_HEALTH = 1 << 10


def installation(line: str) -> Iterator[Finding]:
    """What is not as it has to be on this machine, or would not be told: nothing is changed.

    Whatever cannot be asked is a finding of `sau doctor`'s other half, or none where no such server is set.
    """
    yield from _versions((settings().root / "pyproject.toml").read_text(encoding="utf-8"))
    yield from _permissions()
    try:
        check_room(_FREE_BYTES)
    except WorkspaceError as error:
        yield Finding(what=str(error), way_out="make room, or move the store", stops="cannot be written" in str(error))
    prefect_time = _prefect_time()
    yield from _clocks(prefect_time)
    yield from _schedule(line, prefect_time)


def _versions(pyproject: str) -> Iterator[Finding]:
    """Every package within the bounds of pyproject.toml, which keep those apart that clash."""
    project = tomllib.loads(pyproject)["project"]
    for text in (*project["dependencies"], *project["optional-dependencies"]["service"]):
        needed = Requirement(text)
        try:
            found = version(needed.name)
        except PackageNotFoundError:
            yield Finding(what=f"{needed.name} is missing", way_out=f"`pip install '{text}'`", stops=True)
            continue
        if not needed.specifier.contains(found, prereleases=True):
            what = f"{needed.name} {found} is installed, and {needed.specifier} is needed"
            yield Finding(what=what, way_out=f"`pip install '{text}'`", stops=True)


def _permissions() -> Iterator[Finding]:
    """State folder and keys are this user's, and nobody else's to read."""
    state = settings().state
    for path in (state, *sorted((state / "keys").glob("*"))):
        found = path.stat()
        if found.st_uid != os.getuid():
            yield Finding(what=f"{path}: belongs to another user", way_out="run as that user, or `chown` it")
        elif found.st_mode & 0o077:
            yield Finding(what=f"{path}: others may read it", way_out=f"`chmod go= {path}`")


def _clocks(prefect_time: datetime | None) -> Iterator[Finding]:
    """This machine's clock beside the ledger's, which tells leases, and the Prefect server's, which tells schedules."""
    others = {}
    try:
        with Ledger(settings().ledger_url).session() as session:
            others["the ledger's database"] = now(session)
    except SauError as error:
        yield Finding(what=str(error), way_out="the clocks were not compared")
    if prefect_time:
        others["the Prefect server"] = prefect_time
    for name, told in others.items():
        apart = abs((datetime.now(UTC) - told).total_seconds())
        if apart > _APART_S:
            what = f"the clock of this machine and that of {name} are {apart:.0f} s apart"
            yield Finding(what=what, way_out="set both by NTP: leases and deadlines are told by them")


def _prefect_time() -> datetime | None:
    """The clock of the Prefect server that is given; None where none is, or it does not answer as one."""
    if not (api := os.environ.get("PREFECT_API_URL")):
        return None
    try:
        with urllib.request.urlopen(f"{api.rstrip('/')}/health", timeout=_ANSWER_S) as answer:
            is_prefect = answer.read(_MAX_HEALTH).strip() == b"true"
            return parsedate_to_datetime(answer.headers["Date"]) if is_prefect else None
    except urllib.error.HTTPError as error:
        told = error.headers["Date"] if error.code in (401, 403) else None  # it is there, and wants to know who asks
        return parsedate_to_datetime(told) if told else None
    except (OSError, ValueError, TypeError, HTTPException):
        return None


def _schedule(line: str, prefect_time: datetime | None) -> Iterator[Finding]:
    """Where a Prefect server is given: the line's forget flow is due some day, and somebody is there to run it."""
    if not os.environ.get("PREFECT_API_URL"):
        return
    if prefect_time is None:
        yield Finding(what="schedule: no answer from a Prefect server", way_out="see SAU_PREFECT_API_URL")
        return
    name = f"forget/{SCHEDULED}-{line}"
    try:
        found = schedule_of(name)
    except SauError as error:
        yield Finding(what=f"schedule: {error}", way_out="see SAU_PREFECT_API_URL")
        return
    if found is None:
        yield Finding(what=f"{name} is not on the Prefect server", way_out=f"`sau deploy --line {line}`")
        return
    if not found.is_active:
        yield Finding(what=f"{name} is paused", way_out="resume it in Prefect's page")
    if not found.num_workers:
        what = f"no worker of the pool {found.pool} is there"
        yield Finding(what=what, way_out=f"`prefect worker start --pool {found.pool}`")
    if found.num_late:
        yield Finding(
            what=f"{name}: {found.num_late} runs are late", way_out="the next one that begins does their work"
        )
