"""A request that is put aside waits for a person, whatever else happens to it."""

import pytest

from sau.errors import RequestError
from tasks.engines.decisions import hold, is_quarantined, quarantine, refuse, release, was_released
from tasks.engines.ledger import Ledger
from tasks.engines.tables import State


@pytest.fixture
def ledger(tmp_path):
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


@pytest.fixture
def asked(ledger):
    return ledger.submit("tiny", "demo-0002").id


def test_no_attempt_takes_it_until_a_person_lets_it_go_on(ledger, asked):
    assert quarantine(ledger, asked, "9 of 9 rows are common text")
    assert not quarantine(ledger, asked, "again"), "it is told once"
    assert is_quarantined(ledger, ledger.get(asked))
    assert ledger.claim("tiny") == ledger.waiting("tiny") == []
    with pytest.raises(RequestError, match="1 to 2000 characters"):
        release(ledger, asked, " ", "Ada")
    assert not was_released(ledger, asked)
    release(ledger, asked, "a namesake", "Ada")
    assert was_released(ledger, asked)
    assert [event.note for event in ledger.history(asked)][1:] == ["9 of 9 rows are common text", "a namesake"]
    assert [request.id for request in ledger.claim("tiny")] == [asked]


def test_it_can_be_refused_as_it_is(ledger, asked):
    quarantine(ledger, asked, "x")
    assert refuse(ledger, asked, "unfounded", "an attack", "Ada").state == State.REFUSED


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
