"""The officer's decisions: what is allowed when, who and why in the history, and what an attempt makes of them."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from dateutil.relativedelta import relativedelta

from sau.errors import RequestError
from tasks.engines.decisions import (
    GROUNDS,
    approve_purge,
    approvers,
    confirm,
    decide_rows,
    extend,
    hold,
    refuse,
    release,
    told,
)
from tasks.engines.ledger import Ledger
from tasks.engines.tables import Law, State, deadline

NOW = datetime.now(UTC)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


@pytest.fixture
def request_id(ledger):
    return ledger.submit("tiny", "demo-0001", "objection", actor="Ada Officer").id


def kinds(ledger, request_id):
    return [(event.kind, event.state, event.actor, event.note) for event in ledger.history(request_id)]


@pytest.mark.parametrize(
    ("law", "extended", "due"),
    [
        ("gdpr", False, "2028-02-29"),
        ("gdpr", True, "2028-04-30"),
        ("ccpa", False, "2028-03-16"),
        ("ccpa", True, "2028-04-30"),
    ],
)
def test_each_law_has_its_clock(law, extended, due):
    received = datetime(2028, 1, 31, 12, tzinfo=UTC)
    assert deadline(received, law, extended=extended).date().isoformat() == due


def test_the_clock_runs_from_receipt_and_not_from_entry(ledger):
    received = NOW - timedelta(days=20)
    request = ledger.submit("tiny", "demo-0001", received_at=received)
    assert (request.received_at, request.deadline_at) == (received, received + relativedelta(months=1))
    assert ledger.history(request.id)[0].at > received
    assert request.days_left(request.deadline_at) == 0, "the last day counts to its end"
    assert request.days_left(request.deadline_at + timedelta(days=2, minutes=1)) == -2
    with pytest.raises(RequestError, match="is in the future"):
        ledger.submit("tiny", "demo-0002", received_at=NOW + timedelta(hours=1))
    with pytest.raises(RequestError, match="law 'roman': has to be one of gdpr, ccpa"):
        ledger.submit("tiny", "demo-0002", law="roman")


def test_an_extension_is_told_once_before_the_deadline_with_a_reason(ledger, request_id):
    for empty in ("", "  ", "a\x1b[2Jb", "x" * 2001):
        with pytest.raises(RequestError, match="why: 1 to 2000 characters"):
            extend(ledger, request_id, empty, "Ada")
    assert extend(ledger, request_id, "many requests at once", "Ada").deadline_at > NOW + timedelta(days=80)
    with pytest.raises(RequestError, match="was extended on"):
        extend(ledger, request_id, "again", "Ada")
    late = ledger.submit("tiny", "demo-0002", received_at=NOW - timedelta(days=40))
    with pytest.raises(RequestError, match="an extension has to be told by"):
        extend(ledger, late.id, "too late", "Ada")
    assert kinds(ledger, late.id) == [("state", "open", None, None)]
    assert kinds(ledger, request_id)[1:] == [("extended", "open", "Ada", "many requests at once")]


@pytest.mark.parametrize("law", list(Law))
def test_a_refusal_names_a_ground_of_its_law(ledger, law):
    for number, ground in enumerate(GROUNDS[law]):
        asked = ledger.submit("tiny", f"demo-{number:04d}", law=law)
        with pytest.raises(RequestError, match="ground 'because': has to be one of"):
            refuse(ledger, asked.id, "because", "no", "Ada")
        refused = refuse(ledger, asked.id, ground, "see the file", "Ada")
        assert (refused.state, refused.ground) == (State.REFUSED, ground)
        assert refused.days_left(NOW) is None
    assert ledger.claim("tiny") == []
    with pytest.raises(RequestError, match="is refused, can be refused only while open, review"):
        refuse(ledger, asked.id, ground, "again", "Ada")


def test_somebody_who_was_refused_may_ask_again(ledger, request_id):
    refuse(ledger, request_id, "unidentified", "no passport", "Ada")
    again = ledger.submit("tiny", "demo-0001")
    assert again.id != request_id
    assert ledger.find("tiny", "demo-0001").id == again.id


def test_a_held_request_is_left_alone_until_the_hold_ends(ledger, request_id):
    hold(ledger, request_id, "case 12 of the court", "Ada")
    assert (ledger.waiting("tiny"), ledger.claim("tiny")) == ([], [])
    with pytest.raises(RequestError, match=r"is held already \(legal hold\) since"):
        hold(ledger, request_id, "again", "Ada")
    release(ledger, request_id, "the case is closed", "Bob")
    with pytest.raises(RequestError, match="neither a legal hold"):
        release(ledger, request_id, "again", "Bob")
    assert [request.id for request in ledger.claim("tiny")] == [request_id]
    with pytest.raises(RequestError, match="is running, can be held only while open, review, forgotten"):
        hold(ledger, request_id, "too late", "Ada")
    assert [(kind, actor) for kind, _, actor, _ in kinds(ledger, request_id)] == [
        ("state", "Ada Officer"), ("hold", "Ada"), ("released", "Bob"), ("state", None),
    ]  # fmt: skip


def test_a_hold_and_a_claim_at_once_never_both_win(ledger):
    ids = [ledger.submit("tiny", f"demo-{number:04d}").id for number in range(8)]

    def held(request_id):
        try:
            return bool(hold(ledger, request_id, "case", "Ada"))
        except RequestError:
            return False

    with ThreadPoolExecutor(4) as pool:
        claimed = pool.submit(ledger.claim, "tiny")
        holds = dict(zip(ids, pool.map(held, ids), strict=True))
    taken = {request.id for request in claimed.result()}
    assert all(held != (request_id in taken) for request_id, held in holds.items())


def test_identity_and_recipients_stand_in_the_history(ledger, request_id):
    assert confirm(ledger, request_id, "passport seen", "Ada").identity_by == "Ada"
    told(ledger, request_id, "Acme Analytics, by mail", "Ada")
    assert kinds(ledger, request_id)[1:] == [
        ("identity", "open", "Ada", "passport seen"),
        ("told", "open", "Ada", "Acme Analytics, by mail"),
    ]


def test_who_is_not_identified_waits_where_that_is_asked_for(ledger, request_id):
    other = ledger.submit("tiny", "demo-0002").id
    confirm(ledger, other, "passport seen", "Ada")
    assert [request.id for request in ledger.waiting("tiny", identified=True)] == [other]
    assert [request.id for request in ledger.claim("tiny", identified=True)] == [other]
    assert {request.id for request in ledger.waiting("tiny")} == {request_id, other}


def test_the_newest_decision_of_a_row_holds_and_the_others_stay(ledger, request_id):
    decide_rows(ledger, request_id, ["a", "b"], "forget", "they name the person", "Ada")
    decide_rows(ledger, request_id, ["b"], "keep", "another of that name", "Bob")
    assert {record: row.decision for record, row in ledger.decided(request_id).items()} == {"a": "forget", "b": "keep"}
    assert [kind for kind, *_ in kinds(ledger, request_id)] == ["state", "rows forget", "rows keep"]
    ledger.claim("tiny")
    with pytest.raises(RequestError, match="is running, can have its rows decided only while"):
        decide_rows(ledger, request_id, ["c"], "forget", "too late", "Ada")
    assert "c" not in ledger.decided(request_id)


def test_a_purge_is_approved_by_different_people_for_what_was_done_last(ledger, request_id):
    with pytest.raises(RequestError, match="is open, can be approved for a purge only while forgotten"):
        approve_purge(ledger, request_id, "the window is over", "Ada")
    ledger.move(request_id, [State.OPEN], State.FORGOTTEN)
    approve_purge(ledger, request_id, "the window is over", "Ada")
    with pytest.raises(RequestError, match="another one is needed"):
        approve_purge(ledger, request_id, "again", " Ada ")
    assert approvers(ledger, request_id) == {"Ada"}
    approve_purge(ledger, request_id, "seen", "Bob")
    assert approvers(ledger, request_id) == {"Ada", "Bob"}
    hold(ledger, request_id, "case", "Ada")
    with pytest.raises(RequestError, match="legal hold"):
        approve_purge(ledger, request_id, "seen", "Eve")
    ledger.move(request_id, [State.FORGOTTEN], State.RUNNING)
    assert approvers(ledger, request_id) == set(), "it is carried out again, so it is approved again"


@pytest.mark.parametrize("decision", [extend, hold, release, confirm, told])
def test_a_decision_on_nobody_is_refused(ledger, decision):
    with pytest.raises(RequestError, match="unknown"):
        decision(ledger, "r-0123456789abcdef", "why", "Ada")


def test_many_at_once_are_taken_once(ledger, request_id):
    taken = ledger.submit_all("tiny", ["demo-0001", "demo-0002", "demo-0002", "demo-0003"], law="ccpa")
    assert [(request.subject_id, new) for request, new in taken] == [
        ("demo-0001", False), ("demo-0002", True), ("demo-0003", True),
    ]  # fmt: skip
    assert taken[0][0].id == request_id
