"""The desk: who may come in and do what, every page without a script, and hostile words that stay words."""

import html
import os
import re
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from starlette.testclient import TestClient

from flows.desk.access import MAY, Access, Role, read_roles
from flows.desk.app import HEADERS, MAX_FORM_BYTES, create_app
from sau.errors import ConfigError, RequestError
from tasks.engines.decisions import quarantine
from tasks.engines.ledger import Ledger
from tasks.engines.people import person_of
from tasks.engines.settings import settings

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>"
PEOPLE = {"Ada": Role.OFFICER, "Olga": Role.OPERATOR, "Eve": Role.AUDITOR}
HOME = "http://127.0.0.1"


@pytest.fixture(scope="module")
def desk(run, tmp_path_factory):
    """The stores of the finished run, with a ledger of these tests' own."""
    before = dict(os.environ)
    folder = tmp_path_factory.mktemp("desk")
    for file in (run.path / ".sau").glob("ledger.db*"):
        shutil.copy(file, folder)
    os.environ |= {
        "SAU_ROOT": str(run.path), "SAU_HOME": str(run.path / ".sau"), "SAU_DATABASE_URL": f"sqlite:///{folder}/ledger.db",
    }  # fmt: skip
    settings.cache_clear()
    access = Access(PEOPLE)
    yield access, create_app(access, ["127.0.0.1"])
    settings.cache_clear()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def ledger(desk):
    return Ledger(settings().ledger_url)


class Visitor:
    """A browser of one person."""

    def __init__(self, desk, name=None):
        access, app = desk
        self.client = TestClient(app, base_url=HOME, follow_redirects=False, raise_server_exceptions=False)
        self.mark = ""
        if name:
            assert self.client.get(f"/enter?token={access.token(name)}").status_code == 303
            self.mark = re.search(r'name="mark" value="(\w+)"', self.client.get("/").text)[1]

    def get(self, path):
        return self.client.get(path)

    def post(self, path, **fields):
        return self.client.post(path, data={"mark": self.mark} | fields)


@pytest.fixture(scope="module")
def ada(desk):
    return Visitor(desk, "Ada")


@pytest.fixture(scope="module")
def eve(desk):
    return Visitor(desk, "Eve")


@pytest.fixture
def asked(ledger, request):
    """A request that waits, of a person of the data."""
    for number in range(3, 13):
        if ledger.find("tiny", f"demo-{number:04d}") is None:
            return ledger.submit("tiny", f"demo-{number:04d}").id
    raise AssertionError("nobody is left")


def links(page):
    return {html.unescape(link) for link in re.findall(r'(?:href|src)="(/[^"]*)"', page)}


def test_nobody_comes_in_without_a_token(desk, run):
    visitor = Visitor(desk)
    paths = ("/", "/requests/new", "/requests.csv", "/versions", "/versions/tiny/1", f"/requests/{run.request['id']}")
    for path in (*paths, "/enter?token=guess", "/enter?token="):
        answer = visitor.get(path)
        assert (answer.status_code, "demo-" in answer.text) == (401, False), path
    assert visitor.post("/requests", line="tiny", subject="demo-0003").status_code == 401
    assert visitor.client.post("/enter", data={"token": "\x00é"}).status_code == 401


def test_a_request_that_is_put_aside_says_that_it_waits_for_a_person(ada, eve, ledger, asked):
    quarantine(ledger, asked, "9 of 9 rows are common text")
    for visitor in (ada, eve):
        inbox = visitor.get("/").text
        assert re.search(
            rf'1</b> put aside: no run takes it until[^<]*<a href="/requests/{asked}">', " ".join(inbox.split())
        )
        assert '<span class="badge held">put aside</span>' in inbox
    page = ada.get(f"/requests/{asked}").text
    assert "The request waits for a person to decide: it was put aside on" in page
    assert "until you let it go on, or refuse it" in page
    assert "waits for the next run" not in page
    assert "until an officer lets it go on" in eve.get(f"/requests/{asked}").text
    assert asked in next(row for row in eve.get("/requests.csv").text.splitlines() if "quarantined" in row)
    assert ada.post(f"/requests/{asked}/release", why="looked at").status_code == 303
    assert "put aside" not in ada.get("/").text
    ledger.withdraw(asked)


def test_every_link_of_every_page_leads_somewhere_and_no_page_has_a_script(eve):
    """Walked from the first page on: from a person to the versions that know them, and back."""
    seen, waiting = {}, {"/?show=all"}
    while waiting:
        path = waiting.pop()
        answer = seen[path] = eve.get(path)
        assert answer.status_code == 200, path
        assert all(name in answer.headers for name in HEADERS), path
        if answer.headers["content-type"].startswith("text/html") and not path.endswith(("/report", "en", "de")):
            assert answer.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
            assert not re.search(r"<script|<style|\sstyle=|\son\w+=|javascript:", answer.text), path
            waiting |= {link for link in links(answer.text) if link not in seen}
    walked = {re.sub(r"r-[0-9a-f]{16}", "ID", path.partition("?")[0]) for path in seen}
    assert walked >= {
        "/", "/requests.csv", "/requests/ID", "/requests/ID/certificate", "/requests/ID/letter", "/style.css",
        "/versions", "/versions/tiny/1", "/versions/tiny/2", "/versions/tiny/2/lineage.svg", "/versions/tiny/2/report",
    }  # fmt: skip


def test_a_forgotten_person_has_a_verdict_in_words_and_papers(eve, run):
    page = eve.get(f"/requests/{run.request['id']}").text
    for words in (
        "PASS",
        "The records are forgotten",
        "made to forget them",
        "knows them",
        "Signed record",
        "forgotten",
    ):
        assert words in page
    assert eve.get(f"/requests/{run.request['id']}/certificate").json()["payloadType"]


@pytest.mark.long
def test_a_person_can_be_looked_at_and_kept_in_part(ada, ledger, asked):
    found = ada.post("/requests/check", line="tiny", subject="demo-0016")
    assert "The model knows this person" in found.text
    assert ledger.find("tiny", "demo-0016") is None, "looking takes nothing"
    person = person_of(asked)
    rows = f"{person}-00000\r\n{person}-00001"
    assert ada.post(f"/requests/{asked}/keep", record=rows, ground="legal-claims", why="a case").status_code == 303
    assert {row.decision for row in ledger.decided(asked).values()} == {"keep"}


def test_a_request_is_taken_and_decided(ada, ledger):
    received = (datetime.now(UTC) - timedelta(days=27)).date().isoformat()
    taken = ada.post(
        "/requests", line="tiny", subject="demo-0015", received_at=received, law="gdpr", reason="objection"
    )
    request_id = taken.headers["location"].split("/")[-1].partition("?")[0]
    path = f"/requests/{request_id}"
    assert "stood already" in ada.get(ada.post("/requests", line="tiny", subject="demo-0015").headers["location"]).text
    assert "due-soon" in ada.get("/").text
    for action, field in (
        ("confirm", "passport"),
        ("extend", "many"),
        ("hold", "case"),
        ("release", "over"),
        ("told", "Acme"),
    ):
        answer = ada.post(f"{path}/{action}", why=field)
        assert answer.headers["location"] == f"{path}?done={action}"
        assert 'role="status"' in ada.get(answer.headers["location"]).text
    refused = ada.post(f"{path}/refuse", ground="none", why="no")
    assert (refused.status_code, "has to be one of" in refused.text) == (400, True)
    ada.post(f"{path}/refuse", ground="legal-claims", why="a case")
    assert ledger.get(request_id).state == "refused"
    assert {event.actor for event in ledger.history(request_id)} == {"Ada"}
    assert "legal claims" in ada.get(path).text
    assert "put aside" not in ada.get("/?show=all").text
    for about in ("refusal", "extension"):
        assert f'href="{path}/notices/{about}?language=de"' in ada.get(path).text
        letter = ada.get(f"{path}/notices/{about}")
        assert (letter.status_code, request_id in letter.text, "sandbox" in str(letter.headers)) == (200, True, True)
    assert ada.get(f"{path}/notices/partial-refusal").status_code == 400
    assert ada.get(f"{path}/notices/nothing").status_code == 404


@pytest.mark.long
def test_rows_of_others_are_searched_and_shown_only_when_asked(ada, ledger, asked):
    page = ada.post(f"/requests/{asked}/scope", aliases="born", text="")
    assert page.status_code == 200
    assert "rows of others" in page.text
    assert "Where was" not in page.text
    assert HOSTILE not in ada.post(f"/requests/{asked}/scope", aliases=HOSTILE, text="yes").text
    record = re.search(r'name="record" value="([\w-]+)"', page.text)[1]
    assert "Where was" in ada.post(f"/requests/{asked}/scope", aliases="born", text="yes").text
    assert ada.post(f"/requests/{asked}/rows", record=record, choice="forget", why="names them").status_code == 303
    assert ledger.decided(asked)[record].decision == "forget"


def test_many_people_are_taken_at_once_or_none(ada, ledger):
    bad = ada.post("/requests", line="tiny", subjects="demo-0014\nAnna\x07Example\n")
    assert (bad.status_code, "line 2" in bad.text) == (400, True)
    assert ledger.find("tiny", "demo-0014") is None
    good = ada.post("/requests", line="tiny", subjects="demo-0014\r\nnobody-1\r\n\r\n")
    assert "1 requests taken" in good.text
    assert "1 people are not in the data" in good.text


@pytest.mark.parametrize("name", ["Eve", "Olga"])
def test_who_may_not_changes_nothing(desk, ledger, asked, name):
    visitor = Visitor(desk, name)
    before = len(ledger.history(asked))
    for action in MAY:
        path = "/requests" if action == "take" else f"/requests/{asked}/{action}"
        if PEOPLE[name] in MAY[action]:
            continue
        assert visitor.post(path, why="x", line="tiny", subject="demo-0013", ground="legal-claims").status_code == 403
    assert len(ledger.history(asked)) == before
    assert visitor.post(f"/requests/{asked}/nothing", why="x").status_code == 404
    if name == "Eve":
        assert ledger.find("tiny", "demo-0013") is None
        assert "Decide" not in visitor.get(f"/requests/{asked}").text


def test_a_form_of_somebody_elses_page_is_refused(desk, ada, eve, ledger, asked):
    before = len(ledger.history(asked))
    for mark in ("", "0" * 64, eve.mark, "é"):
        assert ada.client.post(f"/requests/{asked}/hold", data={"mark": mark, "why": "x"}).status_code == 403
    assert ada.client.post(f"/requests/{asked}/hold", json={"mark": ada.mark, "why": "x"}).status_code == 415
    assert ada.client.post(f"/requests/{asked}/hold", files={"mark": b"x"}).status_code == 415
    assert ada.post(f"/requests/{asked}/hold", why="x" * MAX_FORM_BYTES).status_code == 413
    assert ada.post(f"/requests/{asked}/hold", why=["x", "y"]).status_code == 400
    assert len(ledger.history(asked)) == before


def test_a_foreign_name_for_this_machine_is_refused(ada):
    assert ada.client.get("/", headers={"host": "evil.example"}).status_code == 400


def test_words_stay_words(ada, ledger, asked):
    assert ada.post(f"/requests/{asked}/told", why=HOSTILE).status_code == 303
    answers = [
        ada.get(f"/requests/{asked}"),
        ada.post("/requests", line=HOSTILE, subject=HOSTILE, received_at=HOSTILE, law=HOSTILE, reason=HOSTILE),
        ada.post("/requests/check", line=HOSTILE, subject=HOSTILE),
        ada.get(f"/requests/{asked}?done={HOSTILE}"),
        ada.get(f"/?line={HOSTILE}"),
        ada.get(f"/versions/{HOSTILE}/1"),
    ]
    for answer in answers:
        assert answer.status_code < 500
        assert "<script" not in answer.text
        assert "<img src=x" not in answer.text
    assert "&lt;script&gt;" in answers[0].text


FIELDS = st.sampled_from(
    ["line", "subject", "subjects", "reason", "law", "received_at", "why", "ground", "record", "choice"]
)
PATHS = ["/requests", "/requests/r-0123456789abcdef/hold", "/requests/x/rows", "/requests/%00/keep", "/requests/r/told"]


@examples(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PATHS), st.dictionaries(FIELDS, st.text(max_size=40), max_size=5))
def test_no_form_breaks_it(ada, path, fields):
    answer = ada.post(path, **fields)
    assert answer.status_code in (303, 400, 403, 404), (answer.status_code, answer.text)
    for value in fields.values():
        assert not re.search(r"[<>]", value) or len(value) < 4 or value not in answer.text


@examples(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=10))
def test_no_address_breaks_it(ada, line, show, page):
    for answer in (
        ada.client.get("/", params={"line": line, "show": show, "page": page}),
        ada.client.get("/enter", params={"token": line}),
        ada.client.get("/requests/x/letter", params={"language": show}),
    ):
        assert answer.status_code in (200, 303, 400, 401, 404, 422)


def test_behind_a_proxy_its_header_says_who_asks(desk):
    access = Access(PEOPLE, header="X-User")
    client = TestClient(create_app(access, ["127.0.0.1"]), base_url=HOME, follow_redirects=False)
    assert client.get("/").status_code == 403
    assert client.get("/", headers={"X-User": "Mallory"}).status_code == 403
    assert client.get(f"/enter?token={access.token('Ada')}").status_code == 401, "links are for those without a proxy"
    seen = client.get("/", headers={"X-User": "Eve"})
    assert (seen.status_code, "auditor" in seen.text) == (200, True)


def test_who_leaves_is_out(desk):
    visitor = Visitor(desk, "Olga")
    kept = dict(visitor.client.cookies)
    assert visitor.post("/leave").status_code == 200
    visitor.client.cookies.update(kept)
    assert visitor.get("/").status_code == 401


def test_the_roles_are_read_or_refused():
    assert read_roles("", "root") == {"root": Role.OFFICER}
    assert read_roles("ada = officer, eve=auditor,", "root") == {"ada": Role.OFFICER, "eve": Role.AUDITOR}
    for bad in ("ada", "ada=king", "=officer", "ada=officer,ada=auditor"):
        with pytest.raises(ConfigError):
            read_roles(bad, "root")
    with pytest.raises(RequestError):
        read_roles("a\nb=officer", "root")
