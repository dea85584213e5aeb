"""Taking a forget request: who may be asked for, and on which line."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sau.data.records import SUBJECT_ID
from sau.errors import RequestError
from tasks.engines.ledger import Ledger, Request, State
from tasks.engines.settings import settings
from tasks.engines.workspace import pins_at, scratch

if TYPE_CHECKING:
    from sau.verify.foresight import Foresight
    from tasks.versions.record import VersionRecord


def submit(line: str, subject: str, reason: str) -> Request:
    """Take a request for a subject of the line's data; one that stands already is returned as it is.

    Raises:
        RequestError: a malformed or unknown subject, an unknown reason, or a line without versions.
        WorkspaceError, TrackingError: see `subjects_at` and `Registry`.
    """
    ledger = Ledger(settings().ledger_url)
    if standing := ledger.find(line, subject):
        return standing
    if not SUBJECT_ID.match(subject):
        raise RequestError(f"subject: malformed, it has to match {SUBJECT_ID.pattern}")
    from tasks.versions.registry import Registry  # MLflow: not for a request that stands already

    tag = Registry().champion(line).tag
    if subject not in subjects_at(tag):
        raise RequestError(f"subject: unknown, the training data of {tag} has no such subject")
    return ledger.submit(line, subject, reason)


def check(line: str, subject: str) -> "Foresight":
    """Whether the leading version knows a person of its data, and what a verdict could say of them.

    Raises:
        RequestError: an unknown subject, or a line without versions.
        WorkspaceError: the data is in neither cache nor remote.
    """
    from sau.checkpoint.sparse import open_sparse
    from sau.data.records import load_records
    from sau.data.sets import halves
    from sau.params import load_params
    from sau.verify import load_policy
    from sau.verify.foresight import foresee
    from tasks.versions.registry import Registry

    registry = Registry()
    champion = registry.champion(line)
    with scratch("check", champion.tag) as ws:
        ws.point("data", pins_at(settings().root, champion.tag)["data"])
        shard = ws.path / "data" / "train" / f"{subject}.jsonl"
        if not SUBJECT_ID.match(subject) or not shard.is_file():
            raise RequestError(f"subject: unknown, the training data of {champion.tag} has no such subject")
        params = load_params(ws.path / "params.yaml")
        rows, holdout = (load_records(place).to_list() for place in (shard, ws.path / "data" / "holdout"))
    lm = params.model.put(open_sparse(registry.download(champion)))
    return foresee(lm, rows, halves(holdout, params.seed)[1], load_policy(params.verify.policy))


def withdraw(request_id: str) -> Request:
    """Withdraw an open request that nothing has been done for.

    Raises:
        RequestError: it is not open any more, or an attempt that failed afterwards has carried it out.
    """
    ledger = Ledger(settings().ledger_url)
    request = ledger.get(request_id)
    if request.attempts:
        from tasks.versions.lineage import carried_out

        if number := carried_out(request.line).get(request_id):
            raise RequestError(
                f"request {request_id}: {request.line}@v{number} has carried it out and leads; "
                f"`sau doctor --line {request.line}` says so in the ledger"
            )
    return ledger.withdraw(request_id)


def conclude(record: "VersionRecord", *, leads: bool) -> list[str]:
    """Say in the ledger how a version's requests ended; returns the ids of those that it was news of."""
    return Ledger(settings().ledger_url).move_all(
        record.request_ids,
        [State.RUNNING, State.OPEN],
        State.FORGOTTEN if leads else State.REVIEW,
        version=record.number,
        verdict=record.verdict,
        run_id=record.judged_in,
    )


def in_force(requests: Iterable[Request]) -> dict[str, bool]:
    """Of the forgotten requests among these, whether the line's leading version has carried them out.

    Raises:
        TrackingError: MLflow cannot be asked.
    """
    forgotten = [request for request in requests if request.state == State.FORGOTTEN]
    if not forgotten:
        return {}
    from tasks.versions.lineage import carried_out  # MLflow: only where there is something to ask

    done = {line: carried_out(line) for line in {request.line for request in forgotten}}
    return {request.id: request.id in done[request.line] for request in forgotten}


def waiting(line: str, *, retry_review: bool = False) -> list[Request]:
    """What the next attempt on a line would take: open requests, and forgotten ones that are not in force.

    Raises:
        TrackingError: MLflow cannot be asked.
    """
    ledger = Ledger(settings().ledger_url)
    return ledger.waiting(line, **_wanted(ledger, line, retry_review))


def claim(line: str, *, retry_review: bool = False) -> list[Request]:
    """Take what `waiting` says into an attempt; the line's lock is held.

    Raises:
        TrackingError: MLflow cannot be asked.
    """
    ledger = Ledger(settings().ledger_url)
    return ledger.claim(line, **_wanted(ledger, line, retry_review))


def _wanted(ledger: Ledger, line: str, retry_review: bool) -> dict[str, Any]:
    """What the ledger has to know to say what waits: which requests hold on the leading version, and which do not."""
    done = _reviewed(ledger, line) if retry_review else []
    return {"retry_review": retry_review, "lapsed": lapsed(ledger.list(line)), "done": done}


def _reviewed(ledger: Ledger, line: str) -> list[str]:
    """The ids of requests in review that the leading version has carried out: an audit has put them there."""
    waiting = [request.id for request in ledger.list(line, [State.REVIEW])]
    if not waiting:
        return []
    from tasks.versions.lineage import carried_out

    done = carried_out(line)
    return [request_id for request_id in waiting if request_id in done]


def lapsed(requests: Iterable[Request]) -> list[str]:
    """The ids of the forgotten requests among these that are not in force."""
    return [request_id for request_id, holds in in_force(requests).items() if not holds]


def subjects_at(tag: str) -> set[str]:
    """Subject ids of the training data that a version pins, from the directory listing that DVC keeps.

    Raises:
        WorkspaceError: the listing is in neither cache nor remote.
    """
    pin = pins_at(settings().root, tag)["data"]
    listing = settings().root / ".dvc" / "cache" / "files" / "md5" / pin.md5[:2] / pin.md5[2:]
    if not listing.is_file():
        with scratch("listing") as ws:
            ws.point("data", pin)
    paths = [Path(entry["relpath"]) for entry in json.loads(listing.read_text(encoding="utf-8"))]
    return {path.stem for path in paths if path.parts[0] == "train"}
