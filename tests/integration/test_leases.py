"""Leases: one holder per line, whoever died is succeeded, and whoever lost its line writes nothing more."""

import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import pytest

from sau.errors import LeaseError
from tasks.engines import leases
from tasks.engines.leases import Lease, Process, fence, holding, name_of, take
from tasks.engines.ledger import Ledger, State
from tasks.engines.tables import LeaseRow
from tests import postgres

LINE = "tiny"


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param(
            "postgresql",
            marks=[
                pytest.mark.server,
                pytest.mark.skipif(postgres.programs() is None, reason="PostgreSQL is not installed"),
            ],
        ),
    ]
)
def url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/ledger.db"
    else:
        with postgres.server() as address:
            yield address


@pytest.fixture
def ledger(url):
    return Ledger(url)


def held(ledger, *, seconds=60.0) -> Lease:
    lease = take(ledger, LINE, "forget", seconds=seconds)
    assert isinstance(lease, Lease), lease
    return lease


def set_row(ledger, **values):
    with ledger.session() as session:
        row = session.get(LeaseRow, LINE)
        for name, value in values.items():
            setattr(row, name, value)


def expire(ledger):
    """As if the holder had stood still for longer than its lease."""
    with ledger.session() as session:
        row = session.get(LeaseRow, LINE)
        row.expires_at = row.expires_at.replace(year=2000)


def test_a_line_has_one_holder_and_another_line_its_own(ledger):
    first = held(ledger)
    assert take(ledger, LINE, "audit", seconds=60) == f"forget ({Process.own().words})"
    assert isinstance(take(ledger, "other", "audit", seconds=60), Lease)
    first.give_back(("a", "b"))
    second = held(ledger)
    assert (first.token, second.token) == (1, 2)
    assert second.dead_flow_runs == ("a", "b")


def test_a_lease_is_kept_as_long_as_its_process_renews_it(ledger):
    lease = held(ledger, seconds=2)
    with holding(lease, on_loss=pytest.fail):
        time.sleep(3.5)
        assert isinstance(take(ledger, LINE, "audit", seconds=2), str)
        fence()


def test_who_stood_still_and_wakes_up_writes_nothing_more(ledger):
    request = ledger.submit(LINE, "demo-0001")
    lost = threading.Event()
    with holding(held(ledger, seconds=3), on_loss=lost.set):
        ledger.claim(LINE)
        expire(ledger)
        successor = held(ledger)
        with pytest.raises(LeaseError, match="another one has taken the line"):
            fence()
        with pytest.raises(LeaseError):
            ledger.move(request.id, [State.RUNNING], State.FORGOTTEN, version=2)
        assert lost.wait(5), "the thread that renews says so by itself"
    assert ledger.get(request.id).state == State.RUNNING
    assert [state for _, state in ledger.events(request.id)] == ["open", "running"]
    with holding(successor, on_loss=pytest.fail):
        ledger.move(request.id, [State.RUNNING], State.FORGOTTEN, version=2)


def test_who_gives_back_late_does_not_free_the_line_of_another(ledger):
    first = held(ledger)
    expire(ledger)
    held(ledger)
    first.give_back(())
    assert isinstance(take(ledger, LINE, "audit", seconds=60), str)


def test_a_clock_that_is_late_to_renew_keeps_a_line_that_nobody_has_taken(ledger):
    with holding(held(ledger), on_loss=pytest.fail):
        expire(ledger)
        fence()
        assert isinstance(take(ledger, LINE, "audit", seconds=60), str)


def _die_holding(url):
    take(Ledger(url), LINE, "forget", seconds=3600)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_of_this_machine_that_died_is_succeeded_at_once(url, ledger):
    child = get_context("fork").Process(target=_die_holding, args=(url,))
    child.start()
    child.join()
    assert held(ledger).token == 2


def test_of_another_machines_process_only_its_silence_tells(ledger):
    held(ledger)
    set_row(ledger, machine="elsewhere pid:[1]", process=2**22 + 1)
    assert take(ledger, LINE, "audit", seconds=60) == f"forget (process {2**22 + 1} on elsewhere)"
    expire(ledger)
    assert held(ledger).token == 2


def test_a_process_number_that_was_given_to_another_is_not_the_holder():
    own = Process.own()
    assert not own.died
    assert replace(own, begun=own.begun - 3600).died
    assert not replace(own, machine="elsewhere", number=2**22 + 1).died


def _one_at_a_time(url, place):
    """Takes the line, adds one to a number that no lock guards, and gives the line back."""
    database, done = Ledger(url), 0
    while done < 5:
        lease = leases.take(database, LINE, "count", seconds=60)
        if isinstance(lease, str):
            time.sleep(0.002)
            continue
        number = int(place.read_text())
        time.sleep(0.002)
        place.write_text(str(number + 1))
        lease.give_back(())
        done += 1
    return lease.token


def test_of_many_processes_one_holds_a_line_at_a_time(url, ledger, tmp_path):
    place = tmp_path / "number"
    place.write_text("0")
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        tokens = list(pool.map(_one_at_a_time, [url] * 4, [place] * 4))
    assert place.read_text() == "20"
    assert max(tokens) == 20


def test_a_database_has_a_name_that_stays(url, ledger):
    assert name_of(ledger) == name_of(Ledger(url))
