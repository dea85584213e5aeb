"""A state folder as a backup may give it back: what is damaged or missing in it is said in a line, nothing is lost."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import flows.cli
from sau.cli.app import app
from sau.data.demo import demo_rows
from sau.errors import RequestError, SauError, VaultError
from tasks.engines.databases import clean
from tasks.engines.keys import vault
from tasks.engines.ledger import Ledger
from tasks.engines.settings import settings
from tasks.engines.tables import State
from tasks.purge import Plan, preview
from tasks.suppression import Suppression
from tests.apart import own_settings
from tests.hostile import JSON, SECRET, altered, damaged, examples, read_or_refused

ROWS = [row | {"subject_id": SECRET, "answer": f"{SECRET} lives there"} for row in demo_rows(SECRET, seed=1)[:3]]


@pytest.fixture
def home(tmp_path):
    """A state folder with one request that was forgotten, whose rows are held and whose person is on the list."""
    assert flows.cli.vault
    with own_settings(SAU_HOME=str(tmp_path / "home")):
        ledger = Ledger(settings().ledger_url)
        request = ledger.submit("tiny", SECRET)
        ledger.move(request.id, [State.OPEN], State.RUNNING)
        vault().seal(request.id, ROWS)
        Suppression().add(request.id)
        yield tmp_path / "home"


def request_of(home):
    (file,) = home.glob("vault/*.sealed")
    return file.stem


def changed(whole):
    """A JSON file's bytes damaged, or others of its values, or any document."""
    odd = st.one_of(JSON, altered(json.loads(whole)))
    return st.one_of(damaged(whole), odd.map(lambda value: json.dumps(value).encode()))


def run(*words, given=None):
    """A command's output; it is done, or refused in one line of ours that quotes nobody."""
    done = CliRunner().invoke(app, words, input=given)
    if isinstance(done.exception, SauError):
        read_or_refused(lambda: (_ for _ in ()).throw(done.exception))
    else:
        assert done.exit_code in (0, 2, 3), (words, done.exception)
    assert SECRET not in done.output
    return done


@examples(20)
@given(data=st.data())
def test_a_suppression_list_that_was_changed_is_read_or_refused_and_kept(home, data):
    file = home / "suppressed.json"
    whole = file.read_bytes()
    file.write_bytes(odd := data.draw(changed(whole)))
    for read in (
        Suppression().all,
        lambda: Suppression().found_in(ROWS),
        lambda: Suppression().refuse_people([SECRET], "data"),
        lambda: Suppression().lift("r-0000000000000000"),
    ):
        read_or_refused(read)
    assert file.read_bytes() == odd
    file.write_bytes(whole)
    assert Suppression().found_in(ROWS) == {request_of(home): 3}


def test_without_its_key_the_list_finds_nobody_and_says_so(home):
    """As where a backup brought the list back and not the keys: a new key would let everybody in."""
    key, request = home / "keys" / "suppression.key", request_of(home)
    whole = key.read_bytes()
    for lose, words in (
        (key.unlink, "missing"),
        (lambda: key.write_bytes(bytes(32)), "not the key"),
        (lambda: key.write_bytes(b""), "not the key"),
    ):
        lose()
        for ask in (
            lambda: Suppression().found_in(ROWS),
            lambda: Suppression().refuse(ROWS, "data"),
            lambda: Suppression().refuse_people([SECRET], "data"),
            lambda: Suppression().add(request),
        ):
            with pytest.raises(RequestError, match=rf"suppression\.key: {words}.*restore it from a backup"):
                ask()
        key.write_bytes(whole)
    assert Suppression().found_in(ROWS) == {request: 3}


@examples(15)
@given(data=st.data())
def test_the_plan_of_a_purge_that_was_changed_is_read_or_refused_and_kept(home, data):
    request = request_of(home)
    plan = Plan(
        request_id=request, line="tiny", version=2, expiring=("tiny@v1",), objects=("a" * 32,), sources=(), policy="-"
    )  # fmt: skip
    whole = plan.model_dump_json().encode()
    journal = home / "purges" / f"{request}.json"
    journal.parent.mkdir(exist_ok=True)
    journal.write_bytes(odd := data.draw(changed(whole)))
    read_or_refused(lambda: preview(request))
    assert journal.read_bytes() == odd


@examples(20)
@given(data=st.data())
def test_a_damaged_ledger_is_read_or_refused(home, tmp_path_factory, data):
    request, kept = request_of(home), home / "ledger.db"
    assert clean(kept) == ""
    file = tmp_path_factory.mktemp("damaged") / "ledger.db"
    file.write_bytes(data.draw(damaged(kept.read_bytes())))
    for read in (lambda it: it.list(), lambda it: it.counts("tiny"), lambda it: it.history(request)):
        read_or_refused(lambda: read(Ledger(f"sqlite:///{file}")))  # noqa: B023  # called at once


def test_what_lies_beside_the_vaults_own_files_is_no_request(home):
    request = request_of(home)
    for name in ("._r-1.key", "r 1.key", "notes.txt", f"{request}.key.bak", "x" * 70 + ".key"):
        (home / "vault" / name).write_bytes(b"\0\1")
    assert vault().requests() == [request]
    assert request in run("vault", "list").output
    run("vault", "rotate")
    assert vault().open(request) == sorted(ROWS, key=lambda row: json.dumps(row, sort_keys=True))
    vault().sealed(request).unlink()
    assert request in run("vault", "list").output
    with pytest.raises(VaultError, match="not in it"):
        vault().open(request)


@examples(6)
@given(raw=st.one_of(st.binary(max_size=200), damaged(f"{SECRET}\nAnna Example\n7\n".encode())))
def test_lists_of_ids_are_taken_whole_or_not_at_all(home, raw):
    ledger = Ledger(settings().ledger_url)
    before = len(ledger.list())
    (home / "list").write_bytes(raw)
    done = run("request", "submit", "--subjects", str(home / "list"), "--json")
    assert done.exit_code != 0 or len(ledger.list()) > before
    assert done.exit_code == 0 or len(ledger.list()) == before


@examples(12)
@given(raw=st.one_of(st.binary(max_size=200), damaged(f"{SECRET}\nAnna Example\n".encode())))
def test_lists_of_secrets_are_read_or_refused(home, monkeypatch, raw):
    given_to = []
    monkeypatch.setattr("tasks.scan.scan", lambda secrets, databases: given_to.append(secrets) or 1 / 0)
    (home / "list").write_bytes(raw)
    done = CliRunner().invoke(app, ["scan", "--secrets", str(home / "list")])
    assert done.exit_code == 2 or isinstance(done.exception, ZeroDivisionError), done.exception
    assert all(text and text == text.strip() for secrets in given_to for text in secrets.values())
