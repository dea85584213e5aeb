"""The ledger: one standing request per person and line, atomic changes of state, the legal deadline."""

import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context

import pytest

from sau.errors import RequestError
from tasks.engines import database
from tasks.engines.ledger import Ledger, State, deadline
from tasks.engines.settings import settings
from tests import postgres


@pytest.fixture
def ledger(tmp_path):
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


@pytest.mark.parametrize(
    ("received", "due"),
    [
        ("2026-01-31", "2026-02-28"),
        ("2028-01-31", "2028-02-29"),
        ("2026-12-15", "2027-01-15"),
        ("2026-03-31", "2026-04-30"),
    ],
)
def test_the_deadline_is_one_calendar_month(received, due):
    assert deadline(datetime.fromisoformat(received).replace(tzinfo=UTC)).date().isoformat() == due


def test_the_same_request_twice_is_one_request(ledger):
    first = ledger.submit("tiny", "demo-0001", "objection")
    assert ledger.submit("tiny", "demo-0001").id == first.id
    assert ledger.submit("other", "demo-0001").id != first.id
    assert len(ledger.list("tiny")) == 1


def test_the_same_request_from_many_at_once_is_one_request(ledger):
    with ThreadPoolExecutor(8) as pool:
        ids = {r.id for r in pool.map(lambda _: ledger.submit("tiny", "demo-0001"), range(16))}
    assert len(ids) == 1


def _opened(url):
    return len(Ledger(url).list())


def test_many_processes_may_be_the_first_to_open_it(tmp_path):
    urls = [f"sqlite:///{tmp_path}/{number}.db" for number in range(20) for _ in range(4)]
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        assert list(pool.map(_opened, urls)) == [0] * len(urls)


def test_a_withdrawn_request_can_be_made_again(ledger):
    first = ledger.submit("tiny", "demo-0001")
    assert ledger.withdraw(first.id).state == State.WITHDRAWN
    again = ledger.submit("tiny", "demo-0001")
    assert again.id != first.id
    assert [r.state for r in ledger.list()] == [State.WITHDRAWN, State.OPEN]


def test_ids_are_random_and_say_nothing_of_the_subject(ledger):
    ids = {ledger.submit("tiny", f"demo-{n:04d}").id for n in range(50)}
    assert len(ids) == 50
    assert not any("demo" in i for i in ids)


@pytest.mark.parametrize(
    ("line", "subject", "reason", "named"),
    [("../x", "s", "unstated", "line"), ("tiny", "a\n", "unstated", "subject"), ("tiny", "", "unstated", "subject"),
     ("tiny", "x" * 1025, "unstated", "subject"), ("tiny", "s", "because", "reason")],
)  # fmt: skip
def test_malformed_input_is_refused_and_nothing_is_written(ledger, line, subject, reason, named):
    with pytest.raises(RequestError, match=named):
        ledger.submit(line, subject, reason)
    assert ledger.list() == []


@pytest.mark.parametrize("request_id", ["", "r-1", "r-' or 1=1 --", "R-0123456789abcdef"])
def test_a_malformed_id_is_refused(ledger, request_id):
    with pytest.raises(RequestError, match="malformed"):
        ledger.get(request_id)


def test_an_unknown_id_is_refused(ledger):
    with pytest.raises(RequestError, match="unknown"):
        ledger.get("r-0123456789abcdef")


def test_only_an_open_request_can_be_withdrawn(ledger):
    request = ledger.submit("tiny", "demo-0001")
    ledger.claim("tiny")
    with pytest.raises(RequestError, match="is running"):
        ledger.withdraw(request.id)


def test_a_claim_takes_what_is_open_and_what_a_dead_attempt_left_running(ledger):
    ids = [ledger.submit("tiny", f"demo-{n:04d}").id for n in range(3)]
    ledger.submit("other", "demo-0000")
    ledger.withdraw(ids[1])
    assert [r.id for r in ledger.claim("tiny")] == [ids[0], ids[2]]
    again = ledger.claim("tiny")
    assert [(r.id, r.attempts) for r in again] == [(ids[0], 2), (ids[2], 2)]
    for request_id in (ids[0], ids[2]):
        ledger.move(request_id, [State.RUNNING], State.REVIEW, verdict="FAIL", version=2)
    assert ledger.claim("tiny") == []
    assert [r.id for r in ledger.claim("tiny", retry_review=True)] == [ids[0], ids[2]]


def test_every_change_is_in_the_history(ledger):
    request = ledger.submit("tiny", "demo-0001")
    ledger.claim("tiny")
    ledger.move(request.id, [State.RUNNING], State.FORGOTTEN, version=2, verdict="PASS")
    assert [state for _, state in ledger.events(request.id)] == ["open", "running", "forgotten"]


def test_a_ledger_that_cannot_be_opened_says_so(tmp_path):
    (tmp_path / "ledger.db").write_bytes(b"not a database" * 100)
    with pytest.raises(RequestError, match="cannot be opened"):
        Ledger(f"sqlite:///{tmp_path}/ledger.db")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("not a url", "ArgumentError"),
        ("postgresql://h:port/db", "ValueError"),
        ("mysql://user:secret@host/db", "Python module MySQLdb is not installed"),
        ("sqlite:////proc/none/ledger.db", "Error"),
    ],
)
def test_a_url_that_cannot_be_used_is_named_without_what_it_holds(url, why):
    with pytest.raises(RequestError, match=f"cannot be opened, see SAU_DATABASE_URL .*{why}") as refused:
        Ledger(url)
    assert "secret" not in str(refused.value)


def test_a_database_that_fails_later_is_one_line_that_names_nobody(ledger):
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql("drop table events")
    with pytest.raises(RequestError, match="ledger: the database failed") as refused:
        ledger.submit("tiny", "demo-0001")
    assert "demo-0001" not in str(refused.value)
    assert ledger.list() == [], "nothing half written"


@pytest.mark.server
@pytest.mark.skipif(postgres.programs() is None, reason="PostgreSQL is not installed")
def test_a_postgresql_server_that_falls_silent_is_given_up_and_asked_again_when_it_is_back(monkeypatch):
    short = settings().model_copy(update={"database_wait_s": 1.0})
    monkeypatch.setattr(database, "settings", lambda: short)
    with postgres.server() as url:
        ledger = Ledger(url)
        request = ledger.submit("tiny", "demo-0001")
        with postgres.silent(url):
            started = time.monotonic()
            for ask in (ledger.list, lambda: ledger.withdraw(request.id), lambda: Ledger(url)):  # the last connects
                with pytest.raises(RequestError, match=r"ledger: .*no answer within SAU_DATABASE_WAIT_S"):
                    ask()
            assert time.monotonic() - started < 10
        assert [r.state for r in ledger.list()] == [State.OPEN]


def test_a_claim_leaves_alone_what_was_withdrawn_meanwhile(ledger):
    ids = [ledger.submit("tiny", f"demo-{n:04d}").id for n in range(2)]
    with ThreadPoolExecutor(2) as pool:
        claimed, withdrawn = pool.submit(ledger.claim, "tiny"), pool.submit(ledger.withdraw, ids[0])
    states = [ledger.get(request_id).state for request_id in ids]
    assert [request.id for request in claimed.result()] == [
        i for i, s in zip(ids, states, strict=True) if s == "running"
    ]
    assert (states[0] == State.WITHDRAWN) == (withdrawn.exception() is None)
    assert states[1] == State.RUNNING


def test_what_is_not_in_force_is_taken_again(ledger):
    ids = [ledger.submit("tiny", f"demo-{n:04d}").id for n in range(2)]
    ledger.claim("tiny")
    assert set(ledger.move_all(ids, [State.RUNNING], State.FORGOTTEN, version=2)) == set(ids)
    assert ledger.waiting("tiny") == []
    assert [request.id for request in ledger.claim("tiny", lapsed=ids[1:])] == ids[1:]
    assert ledger.get(ids[0]).state == State.FORGOTTEN


def test_what_an_audit_has_put_into_review_stays_there(ledger):
    """It is carried out already: its rows are in no data set that could be unlearned from."""
    audited, failed = (ledger.submit("tiny", f"demo-{n:04d}").id for n in range(2))
    ledger.claim("tiny")
    ledger.move_all([audited, failed], [State.RUNNING], State.REVIEW, version=2)
    assert [request.id for request in ledger.waiting("tiny", retry_review=True, done=[audited])] == [failed]
    assert [request.id for request in ledger.claim("tiny", retry_review=True, done=[audited])] == [failed]
    assert ledger.get(audited).state == State.REVIEW
