"""A line given up: everything of it goes under a name that nothing is begun under, and its own name is free again.

Nothing is deleted: versions, verdicts, tags and requests stay together, `sau reproduce` and `sau purge` take the new
name, and the suppression list, the vault and the signed records stay as they are. Each store is renamed in one
transaction, the ledger last; what was begun is noted there first, so whoever dies on the way is finished by the same
call.
"""

import logging
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from sau.errors import RequestError
from tasks.engines.keys import vault
from tasks.engines.ledger import GIVING, LINE, Ledger, State
from tasks.engines.repository import rename_sent_tags, rename_tags, tagged_versions
from tasks.engines.settings import settings
from tasks.engines.tracking import Tracking
from tasks.engines.workspace import sweep
from tasks.purge import is_begun
from tasks.requests import given_up_as

log = logging.getLogger("sau")

KINDS = ("bootstrap", "adopt", "forget", "audit")
"""Of worktrees that attempts on a line leave when they die."""


class Given(BaseModel):
    """A line that is given up.

    Attributes:
        name: what everything of it is called.
        tags: how many git tags there are.
        requests: of people, how many ids go along.
        unpurged: requests that were forgotten and whose rows older versions still have.
    """

    model_config = ConfigDict(frozen=True)

    line: str
    name: str
    tags: int
    requests: int
    unpurged: tuple[str, ...]


def plan(line: str, reference_line: str) -> Given:
    """What giving up a line would move; of one that was begun, what is left of it.

    Args:
        reference_line: the line that its retrained references are versions of.

    Raises:
        RequestError: a malformed line, one that no store knows, or one whose requests wait.
        TrackingError: MLflow has somebody else's model of that name.
    """
    if not LINE.match(line):
        raise RequestError(f"model line: malformed, it has to match {LINE.pattern}")
    ledger, root = Ledger(settings().ledger_url), settings().root
    begun = given_up_as(line)
    requests = ledger.list(line)
    if waiting := [r.id for r in requests if r.held_at or r.state in (State.OPEN, State.RUNNING, State.REVIEW)]:
        raise RequestError(_waiting(line, waiting))
    if purging := [request.id for request in requests if is_begun(request.id)]:
        raise RequestError(f"line {line}: a purge was begun and not finished: `sau purge {purging[0]} --line {line}`")
    tags = sum(len(tagged_versions(root, name)) for name in (line, reference_line))
    if not (begun or requests or tags or Tracking().has_line(line)):
        raise RequestError(f"line {line}: no store knows it")
    unpurged = [r.id for r in requests if r.state == State.FORGOTTEN and vault().state(r.id) == "held"]
    name = begun or f"{line}.given-up-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    return Given(line=line, name=name, tags=tags, requests=len(requests), unpurged=tuple(unpurged))


def _waiting(line: str, request_ids: list[str]) -> str:
    return (
        f"line {line}: requests of it wait or are under a legal hold ({' '.join(request_ids)}), and a line that is "
        "given up carries nothing out: end each one first (`sau request withdraw`, `refuse`, `release`); who is on "
        "another line is submitted there"
    )


def give_up(line: str, reference_line: str, by: str) -> Given:
    """Carry a plan out; the line is held.

    Args:
        by: who decided it.

    Raises:
        RequestError, TrackingError: see `plan`; or a request came meanwhile.
    """
    given, ledger, tracking = plan(line, reference_line), Ledger(settings().ledger_url), Tracking()
    names = {line: given.name, reference_line: f"{given.name}{reference_line.removeprefix(line)}"}
    if not given_up_as(line):
        ledger.note_line(line, GIVING, by, note=given.name)
    log.info("%s is given up as %s", line, given.name)
    for old, new in names.items():
        tracking.rename_line(old, new)
        rename_tags(settings().root, old, new)
        if left := rename_sent_tags(settings().root, old, new):
            log.warning("at SAU_GIT_REMOTE these tags are another checkout's, and stay: %s", ", ".join(left))
    for kind in KINDS:
        sweep(kind, line)
    sweep("retrain", reference_line)
    if waiting := ledger.give_up(line, given.name, by):
        raise RequestError(f"{_waiting(line, waiting)}; then run this again")
    return given
