"""`sau metrics`: numbers that a Prometheus server can read, and request ids, of a line; nobody's name."""

import os
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tasks.engines.decisions import quarantine
from tasks.engines.leases import holding, take
from tasks.engines.ledger import Ledger, State
from tasks.engines.settings import settings
from tasks.metrics import MAX_NAMED, metrics


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    """The ledger of a state folder of its own; the settings are this process's."""
    before = dict(os.environ)
    monkeypatch.setenv("SAU_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    yield Ledger(settings().ledger_url)
    os.environ.clear()
    os.environ.update(before)
    settings.cache_clear()


def read(text):
    """Value by metric and labels."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(s.name, *(v for k, v in sorted(s.labels.items()) if k != "line")): s.value for s in samples}


def test_requests_are_counted_and_the_late_ones_named_by_id(ledger):
    now = datetime.now(UTC)
    ages = {"anna@example.org": 200, "ben@example.org": 95, "cleo@example.org": 26, "dora@example.org": 1}
    asked = {who: ledger.submit("tiny", who, received_at=now - timedelta(days=age)) for who, age in ages.items()}
    ledger.submit("other", "eve@example.org", received_at=now - timedelta(days=300))
    ledger.move(asked["ben@example.org"].id, [State.OPEN], State.REVIEW)
    ledger.withdraw(ledger.submit("tiny", "finn@example.org", received_at=now - timedelta(days=400)).id)
    quarantine(ledger, asked["dora@example.org"].id, "9 of 9 rows are common text")
    text = metrics("tiny")
    found = read(text)
    assert {key[1]: value for key, value in found.items() if key[0] == "sau_requests"} == {
        "open": 3, "running": 0, "forgotten": 0, "review": 1, "refused": 0, "withdrawn": 1,
    }  # fmt: skip
    assert {key[1]: value for key, value in found.items() if key[0] == "sau_requests_held"} == {
        "hold": 0,
        "quarantined": 1,
    }
    assert found["sau_requests_overdue",] == 2
    assert found["sau_requests_due_soon",] == 1
    assert found["sau_oldest_unanswered_seconds",] == pytest.approx(200 * 86400, abs=60)
    assert found["sau_versions",] == found["sau_champion_version",] == 0
    late = {key[1]: value for key, value in found.items() if key[0] == "sau_request_overdue_days"}
    assert late == {
        request.id: (now.date() - request.deadline_at.date()).days
        for request in (asked["anna@example.org"], asked["ben@example.org"])
    }
    assert "example" not in text
    assert not [key for key in found if "last_run" in key[0]]


def test_many_late_requests_are_counted_and_few_named(ledger):
    now = datetime.now(UTC)
    for number in range(MAX_NAMED + 5):
        ledger.submit("tiny", f"p-{number}", received_at=now - timedelta(days=60))
    found = read(metrics("tiny"))
    assert found["sau_requests_overdue",] == MAX_NAMED + 5
    assert sum(key[0] == "sau_request_overdue_days" for key in found) == MAX_NAMED


def test_a_run_is_seen_while_it_goes_on_and_afterwards(ledger):
    seconds = settings().lease_s
    lease = take(ledger, "tiny", "forget", seconds=seconds)
    with holding(lease, on_loss=lambda: None):
        assert read(metrics("tiny"))["sau_running",] == 1
    lease.give_back(())
    found = read(metrics("tiny"))
    assert found["sau_running",] == 0
    assert found["sau_last_run_timestamp_seconds", "forget"] == pytest.approx(datetime.now(UTC).timestamp(), abs=30)


@pytest.mark.long
def test_the_command_writes_what_it_prints(copy_checkout, tmp_path):
    checkout = copy_checkout(tmp_path / "checkout")
    to = tmp_path / "sau.prom"
    printed = checkout.sau("metrics").stdout
    assert checkout.sau("metrics", "--to", str(to)).stdout == ""
    assert to.read_text() == printed
    assert to.stat().st_mode & 0o777 == 0o644
    refused = checkout.sau("metrics", "--to", str(tmp_path / "none" / "sau.prom"), check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
