"""Deadlines: which requests are overdue or due soon, said in the ledger's list and as events in Prefect."""

from datetime import UTC, datetime

from tasks.engines.ledger import Ledger
from tasks.engines.orchestration import emit_event
from tasks.engines.settings import settings
from tasks.engines.tables import UNANSWERED
from tasks.requests import Due, due


def announce(line: str) -> list[str]:
    """Emit `sau.request.overdue` and `sau.request.due-soon` for a line's unanswered requests; returns their ids.

    An event's resource is `sau.request.<id>`, so that an automation can wait for the same request's answer; its payload
    has line, state, what holds it, deadline and days left, and names nobody.
    """
    ledger, now, told = Ledger(settings().ledger_url), datetime.now(UTC), []
    held = ledger.held(line)
    for request in ledger.list(line, UNANSWERED):
        if (when := due(request, now)) not in (Due.OVERDUE, Due.SOON):
            continue
        emit_event(
            event=f"sau.request.{when}",
            resource={
                "prefect.resource.id": f"sau.request.{request.id}",
                "prefect.resource.name": request.id,
                "sau.line": line,
            },
            payload={
                "line": line,
                "state": request.state,
                "held_by": held.get(request.id),
                "deadline": request.deadline_at.isoformat(),
                "days_left": request.days_left(now),
            },
        )
        told.append(request.id)
    return told
