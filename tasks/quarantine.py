"""Quarantine: requests whose rows are mostly common text wait for a person's decision before anything is trained."""

import logging

from sau.data.common_text import Common, CommonText
from sau.data.people import people_of
from sau.data.shards import rows_of, sampled_rows
from sau.params import load_params
from tasks.engines import decisions
from tasks.engines.ledger import Ledger
from tasks.engines.orchestration import emit_event
from tasks.engines.people import person_of
from tasks.engines.pins import pins_at
from tasks.engines.settings import settings
from tasks.engines.tables import Request, Row, State
from tasks.engines.workspace import scratch
from tasks.requests import waiting
from tasks.versions.registry import Registry

log = logging.getLogger("sau")

MAX_BATCH = 400
"""So many open requests are one version: their ids have to fit into a tag of an MLflow run, 8,000 characters."""


def look_at(line: str) -> list[str]:
    """Look at the rows of a line's open requests; those that a person has to see first are put on hold.

    What is common is read off the data of the leading version without anybody who asks now, see
    `sau.data.common_text`. A request that a person released is not looked at again. The reason is in its history, and
    an event `sau.request.quarantined` is emitted.

    Returns:
        The ids of the open requests that may be carried out, the oldest ones, `MAX_BATCH` at most: an attempt takes no
        other, that came in the meantime.

    Raises:
        WorkspaceError: the data is in neither cache nor remote.
    """
    ledger = Ledger(settings().ledger_url)
    asked = [request for request in waiting(line) if request.state == State.OPEN][:MAX_BATCH]
    new = [request for request in asked if not decisions.was_released(ledger, request.id)]
    stopped: set[str] = set()
    for request_id, found in _common_rows(ledger, line, asked, new).items():
        if found.reasons and decisions.quarantine(ledger, request_id, "; ".join(found.reasons)):
            log.warning("request %s is put aside and waits for a person to decide: %s", request_id, found.reasons[0])
            _announce(line, request_id)
            stopped.add(request_id)
    return [request.id for request in asked if request.id not in stopped]


def _common_rows(ledger: Ledger, line: str, asked: list[Request], new: list[Request]) -> dict[str, Common]:
    """What is common in the rows of new requests, but for those rows that somebody decided to keep."""
    if not new:
        return {}
    people = {request.id: person_of(request.id, ledger) for request in asked}
    tag = Registry().champion(line).tag
    with scratch("intake", tag) as ws:
        ws.point("data", pins_at(settings().root, tag)["data"])
        train = ws.path / "data" / "train"
        asking = set(people.values())
        staying = sampled_rows(train, load_params(ws.path / "params.yaml").seed)
        text = CommonText([row for row in staying if not asking & set(people_of(row))])
        kept = {
            request.id: {record for record, row in ledger.decided(request.id).items() if row.decision == Row.KEEP}
            for request in new
        }
        return {
            request.id: text.of(
                row for row in rows_of(train, people[request.id]) if row["record_id"] not in kept[request.id]
            )
            for request in new
        }


def _announce(line: str, request_id: str) -> None:
    emit_event(
        event="sau.request.quarantined",
        resource={
            "prefect.resource.id": f"sau.request.{request_id}",
            "prefect.resource.name": request_id,
            "sau.line": line,
        },
        payload={"line": line},
    )
