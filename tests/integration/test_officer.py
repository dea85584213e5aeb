"""The officer's commands, on a ledger of their own: what is said, what is refused in one line, what may be typed in."""

import contextlib
import csv
import io
import json
import os
from datetime import UTC, datetime, timedelta

import pytest
import typer
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from typer.testing import CliRunner

import flows.cli
from flows.cli.options import lines_of
from sau.cli.app import app
from sau.cli.console import plain
from sau.errors import RequestError, SauError
from tasks.engines.decisions import checked_text, quarantine
from tasks.engines.ledger import Ledger
from tasks.engines.settings import settings
from tasks.engines.tables import State
from tasks.requests import Due, csv_of, due, moment

NOW = datetime.now(UTC)


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    """The ledger of a home of this test's own."""
    assert flows.cli.officer
    before = dict(os.environ)
    monkeypatch.setenv("SAU_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    settings.cache_clear()
    yield Ledger(settings().ledger_url)
    settings.cache_clear()
    os.environ.clear()
    os.environ.update(before)


def said(*args, given=None):
    done = CliRunner().invoke(app, ["request", *args], input=given)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def refused(*args, given=None):
    """The error of a command that is refused."""
    done = CliRunner().invoke(app, ["request", *args], input=given)
    assert done.exit_code, done.output
    if isinstance(done.exception, SauError):
        assert "\n" not in str(done.exception)
        return str(done.exception)
    assert done.exit_code == 2, done.exception
    return " ".join(done.output.split())


def test_a_request_that_is_put_aside_says_that_it_waits_for_a_person_and_what_to_type(ledger):
    aside, other = (ledger.submit("tiny", who).id for who in ("demo-0001", "demo-0002"))
    quarantine(ledger, aside, "9 of 9 rows are common text")
    for command in (("list",), ("show", aside)):
        words = " ".join(said(*command).split())
        assert "put aside" in words
        assert (
            f"`sau request release {aside} --why WHY` lets it go on, or `sau request refuse {aside} --ground" in words
        )
    assert "put aside" not in said("show", other) + said("list", "--state", "forgotten")
    assert {r["id"]: r["held_by"] for r in json.loads(said("list", "--json"))} == {aside: "quarantined", other: None}
    assert json.loads(said("show", aside, "--json"))["held_by"] == "quarantined"
    assert [row["held_by"] for row in csv.DictReader(io.StringIO(said("list", "--csv")))] == ["quarantined", ""]


def test_a_request_goes_through_an_officers_hands(ledger):
    asked = ledger.submit("tiny", "demo-0001", "objection").id
    by = ("--by", "Ada Officer")
    said("confirm", asked, "--how", "passport seen", *by)
    said("extend", asked, "--why", "many requests", *by)
    said("hold", asked, "--why", "case 12", *by)
    assert "open, legal hold" in said("list")
    said("release", asked, "--why", "closed", *by)
    said("told", asked, "--recipient", "Acme, by mail", *by)
    shown = json.loads(said("refuse", asked, "--ground", "legal-claims", "--why", "case 13", *by, "--json"))
    assert (shown["state"], shown["ground"], shown["due"]) == ("refused", "legal-claims", "answered")
    assert [event["kind"] for event in shown["events"]] == [
        "state", "identity", "extended", "hold", "released", "told", "state",
    ]  # fmt: skip
    assert {event["by"] for event in shown["events"][1:]} == {"Ada Officer"}
    assert "hold by Ada Officer: case 12" in said("show", asked)


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("extend", "r-0123456789abcdef", "--why", "x"), "unknown"),
        (("extend", "ASKED", "--why", " "), "why: 1 to 2000 characters"),
        (("refuse", "ASKED", "--ground", "because", "--why", "x"), "has to be one of expression, legal-duty"),
        (("hold", "ASKED", "--why", "x", "--by", "a\nb"), "by: 1 to 100 characters"),
        (("release", "ASKED", "--why", "x"), "neither a legal hold"),
        (("list", "--due", "never"), "has to be overdue or due-soon"),
        (("submit",), "one of --subject and --subjects is needed"),
        (("submit", "--subject", "-"), "standard input is empty"),
        (("submit", "--subject", "demo-0001", "--received-at", "soon"), "has to look like 2026-11-03"),
        (("submit", "--subjects", "no/such/file"), "cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(ledger, args, named):
    asked = ledger.submit("tiny", "demo-0009").id
    assert named in refused(*(asked if arg == "ASKED" else arg for arg in args))
    assert len(ledger.history(asked)) == 1


def test_a_list_with_a_malformed_id_takes_nobody_and_quotes_nobody(ledger):
    message = refused("submit", "--subjects", "-", given="demo-0001\nAnna\x07Example\n\n\x1b[2J\n")
    assert "2 of 3 ids are malformed (line 2, 4)" in message
    assert "Anna" not in message
    assert ledger.list() == []


def test_overdue_and_due_soon_are_said(ledger):
    days = {"late": 40, "soon": 27, "fresh": 1}
    ids = {name: ledger.submit("tiny", name, received_at=NOW - timedelta(days=age)).id for name, age in days.items()}
    found = {row["id"]: row["due"] for row in json.loads(said("list", "--json"))}
    assert [found[ids[name]] for name in days] == ["overdue", "due-soon", "in-time"]
    assert " overdue" in said("list", "--due", "overdue")
    assert {row["id"] for row in json.loads(said("list", "--due", "due-soon", "--json"))} == {ids["late"], ids["soon"]}
    ledger.move(ids["late"], [State.OPEN], State.FORGOTTEN)
    assert due(ledger.get(ids["late"])) == Due.ANSWERED


def test_csv_holds_no_formula_and_every_row(ledger):
    ledger.submit("tiny", "demo-0001")
    (row,) = csv.DictReader(io.StringIO(said("list", "--csv")))
    assert row["subject_id"] == "demo-0001"
    assert csv_of([]) == ""


@examples(max_examples=40)
@given(st.lists(st.dictionaries(st.just("a"), st.text(), min_size=1), min_size=1, max_size=3))
def test_no_cell_is_a_formula(rows):
    read = list(csv.DictReader(io.StringIO(csv_of(rows), newline="")))
    assert [row["a"].removeprefix("'") for row in read] == [row["a"].removeprefix("'") for row in rows]
    assert not any(row["a"][:1] in ("=", "+", "-", "@", "\t", "\r", "\n") for row in read)


@given(st.text())
def test_a_terminal_shows_any_text_as_text(text):
    shown = plain(text)
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert "[/" not in shown.replace("\\[/", "")


@given(st.text(max_size=40))
def test_any_moment_is_one_or_is_refused(text):
    with contextlib.suppress(RequestError):
        assert moment(text).tzinfo == UTC


@examples(max_examples=30)
@given(st.binary(max_size=200))
def test_any_list_is_lines_or_is_refused(tmp_path_factory, raw):
    file = tmp_path_factory.getbasetemp() / "list"
    file.write_bytes(raw)
    with contextlib.suppress(typer.BadParameter):
        assert all(line and line == line.strip() and "\n" not in line for line in lines_of(str(file)))


@given(st.text())
def test_any_words_are_kept_or_refused(text):
    with contextlib.suppress(RequestError):
        kept = checked_text("why", text)
        assert kept == text.strip()
        assert "\x1b" not in kept


def test_a_list_is_answered_line_by_line_in_one_transaction(ledger, monkeypatch):
    """Blank lines count, people the data does not have are told apart, and a list that is sent again is one list."""
    monkeypatch.setattr("tasks.requests.are_in", lambda tag, people: {p for p in people if p.startswith("known")})
    monkeypatch.setattr("tasks.requests._leading", lambda line: type("Leads", (), {"tag": "tiny@v1"}))
    given = "known-1\n\nknown-2\nstranger-1\nknown-1 \nAnna\x07Example\n"
    message = refused("submit", "--subjects", "-", "--law", "ccpa", given=given)
    assert "1 of 5 ids are malformed (line 6)" in message
    assert ledger.list() == ledger.line_events("tiny") == []

    how = ("submit", "--subjects", "-", "--law", "ccpa", "--skip-malformed", "--by", "Ada")
    done = CliRunner().invoke(app, ["request", *how, "--json"], input=given)
    assert done.exit_code == 3
    answers = {a["line"]: a["answer"] for a in json.loads(done.output)["answers"]}
    assert answers == {1: "taken", 3: "taken", 4: "unknown", 5: "duplicate", 6: "malformed"}
    assert [(r.deadline_at - r.received_at).days for r in ledger.list()] == [45, 45]
    (event,) = ledger.line_events("tiny")
    assert (event.actor, event.note) == (
        "Ada", "2 requests taken, 0 stood already, 1 people not in the data, 2 lines left out",
    )  # fmt: skip

    again = CliRunner().invoke(app, ["request", *how, "--csv"], input=given).output
    assert again.splitlines()[:2] == ['"line","answer","request_id"', f'"1","standing","{ledger.list()[0].id}"']
    words = CliRunner().invoke(app, ["request", *how], input=given).output
    assert "0 requests taken, 2 stood already, 1 people are not in the data" in words
    assert "1 lines name somebody again (line 5), 1 lines are malformed (line 6)" in words
    assert "Anna" not in again + words + done.output


def test_a_list_that_dies_on_the_way_has_taken_nobody(ledger, monkeypatch):
    def dies(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("tasks.engines.ledger.LineEvent", dies)
        with pytest.raises(KeyboardInterrupt):
            ledger.submit_all("tiny", ["a", "b", "c"])
    assert ledger.list() == []
    assert [new for _, new in ledger.submit_all("tiny", ["a", "b", "c"])] == [True] * 3


def test_two_lists_at_once_take_everybody_once(ledger, monkeypatch):
    """Somebody else takes one of the list between the look and the write: the list is looked at again."""
    real, other = Ledger.session, []

    def session(self):
        if not other:
            other.append(True)
            found = real(self)

            @contextlib.contextmanager
            def interrupted():
                with found as opened:
                    flush = opened.flush

                    def late():
                        ledger_of_another = Ledger(settings().ledger_url)
                        ledger_of_another.submit("tiny", "b")
                        opened.flush = flush
                        flush()

                    opened.flush = late
                    yield opened

            return interrupted()
        return real(self)

    monkeypatch.setattr(Ledger, "session", session)
    taken = Ledger.submit_all(ledger, "tiny", ["a", "b"])
    assert [(request.subject_id, new) for request, new in taken] == [("a", True), ("b", False)]
    assert len(ledger.list()) == 2
