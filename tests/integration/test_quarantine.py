"""A request that is put aside waits for a person, whatever else happens to it."""

import pytest

from sau.errors import RequestError
from tasks.engines.decisions import hold, put_aside, quarantine, refuse, release, was_released, what_next
from tasks.engines.ledger import Ledger
from tasks.engines.tables import HeldBy, State


@pytest.fixture
def ledger(tmp_path):
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


@pytest.fixture
def asked(ledger):
    return ledger.submit("tiny", "demo-0002").id


def test_no_attempt_takes_it_until_a_person_lets_it_go_on(ledger, asked):
    assert quarantine(ledger, asked, "9 of 9 rows are common text")
    assert not quarantine(ledger, asked, "again"), "it is told once"
    assert put_aside(ledger.held()) == put_aside(ledger.held("tiny")) == [asked]
    assert put_aside(ledger.held("other")) == []
    assert f"`sau request release {asked} --why WHY` lets it go on" in what_next([asked])
    assert ledger.claim("tiny") == ledger.waiting("tiny") == []
    with pytest.raises(RequestError, match="1 to 2000 characters"):
        release(ledger, asked, " ", "Ada")
    assert not was_released(ledger, asked)
    release(ledger, asked, "a namesake", "Ada")
    assert was_released(ledger, asked)
    assert put_aside(ledger.held()) == []
    assert what_next([]) == ""
    assert [event.note for event in ledger.history(asked)][1:] == ["9 of 9 rows are common text", "a namesake"]
    assert [request.id for request in ledger.claim("tiny")] == [asked]


def test_it_can_be_refused_as_it_is(ledger, asked):
    quarantine(ledger, asked, "x")
    with pytest.raises(RequestError, match=r"is held already \(put aside\) since .*; `sau request release` ends that"):
        hold(ledger, asked, "case 12", "Ada")
    assert refuse(ledger, asked, "unfounded", "an attack", "Ada").state == State.REFUSED
    assert (ledger.get(asked).held_at, ledger.held()) == (None, {})


def test_taken_back_it_waits_for_nobody(ledger, asked):
    quarantine(ledger, asked, "x")
    assert ledger.withdraw(asked).held_at is None
    assert put_aside(ledger.held()) == []


def test_a_legal_hold_outlasts_the_answer(ledger, asked):
    hold(ledger, asked, "case 12", "Ada")
    refuse(ledger, asked, "legal-claims", "case 12", "Ada")
    assert ledger.held("tiny") == {asked: HeldBy.LEGAL_HOLD}


def test_many_are_counted_and_few_named():
    words = what_next([f"r-{number}" for number in range(12)])
    assert words.startswith("12 requests are put aside and wait for a person to decide, no run takes them before: r-0 ")
    assert "r-9 and 2 more. `sau request show ID` says why" in words


def test_a_legal_hold_that_ended_lets_nothing_out_of_quarantine(ledger, asked):
    hold(ledger, asked, "case 12", "Ada")
    assert not quarantine(ledger, asked, "x"), "held already: it is looked at once that ends"
    release(ledger, asked, "over", "Ada")
    assert not was_released(ledger, asked)
    assert quarantine(ledger, asked, "x")


def test_an_attempt_takes_none_that_came_after_the_others_were_looked_at(ledger, asked):
    late = ledger.submit("tiny", "demo-0003").id
    assert [request.id for request in ledger.claim("tiny", only=[asked])] == [asked]
    assert ledger.get(late).state == State.OPEN
    ledger.move(late, [State.OPEN], State.RUNNING)
    assert late in [request.id for request in ledger.claim("tiny", only=[])], "of an attempt that died"
