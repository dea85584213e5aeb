"""Metrics: a line's requests, versions and last run in Prometheus' text format; counts, ages and request ids alone."""

from datetime import UTC, datetime, time, timedelta

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from tasks.engines.leases import last_held
from tasks.engines.ledger import Ledger, State
from tasks.engines.settings import settings
from tasks.engines.tables import UNANSWERED, HeldBy
from tasks.versions.registry import Versions

MAX_NAMED = 100
"""So many overdue requests are named by their ids, those due first in front; all of them are counted."""


def metrics(line: str) -> str:
    """What the ledger and the registry say of a line, as gauges.

    Raises:
        RequestError: the ledger cannot be asked.
        TrackingError: MLflow cannot.
    """
    loaded, gauges = settings(), CollectorRegistry()
    made: dict[str, Gauge] = {}
    ledger, now = Ledger(loaded.ledger_url), datetime.now(UTC)

    def say(name: str, words: str, value: float, **labels: str) -> None:
        if name not in made:
            made[name] = Gauge(name, words, ["line", *labels], registry=gauges)
        made[name].labels(line, *labels.values()).set(value)

    counts = ledger.counts(line)
    for state in State:
        say("sau_requests", "Requests by state.", counts.get(state, 0), state=state)
    kept = list(ledger.held(line).values())
    for by in HeldBy:
        say("sau_requests_held", "Requests that a hold or a quarantine keeps where they are.", kept.count(by), by=by)
    today = datetime.combine(now.date(), time(), UTC)
    late, num_late = ledger.by_deadline(line, UNANSWERED, limit=MAX_NAMED, before=today)
    soon = today + timedelta(days=loaded.due_soon_days + 1)
    _, num_soon = ledger.by_deadline(line, UNANSWERED, limit=0, before=soon)
    say("sau_requests_overdue", "Unanswered requests past their deadline.", num_late)
    say("sau_requests_due_soon", "Unanswered requests due within SAU_DUE_SOON_DAYS.", num_soon - num_late)
    for request in late:
        days = -(request.days_left(now) or 0)
        say("sau_request_overdue_days", "Days past the deadline.", days, request=request.id)
    received = ledger.oldest(line, UNANSWERED)
    age_s = (now - received).total_seconds() if received else 0
    say("sau_oldest_unanswered_seconds", "Age of the oldest unanswered request; 0: none.", age_s)

    registry = Versions()
    versions, leader = registry.all(line), registry.find(line)
    say("sau_versions", "Registered versions.", len(versions))
    say("sau_champion_version", "Number of the version that leads; 0: none.", leader.number if leader else 0)
    if held := last_held(ledger, line, seconds=loaded.lease_s):
        words = "When a run last held the line, to within SAU_LEASE_S."
        say("sau_last_run_timestamp_seconds", words, held.at.timestamp(), purpose=held.purpose)
        say("sau_running", "Whether a run holds the line.", held.now)
    return generate_latest(gauges).decode()
