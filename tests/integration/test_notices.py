"""Letters of refusal and extension: from the decision alone, in every language, for every ground."""

import os
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

import flows.cli
from sau.certificate.letter import languages
from sau.certificate.notice import About, Notice, write_notice
from sau.cli.app import app
from sau.errors import ConfigError, RequestError
from tasks.engines.decisions import GROUNDS, decide_rows, extend, refuse
from tasks.engines.ledger import Ledger
from tasks.engines.settings import settings
from tasks.engines.tables import Law
from tasks.notices import notice, notices_of

NOW = datetime.now(UTC)
TODAY = f"{NOW:%d %B %Y}"


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    assert flows.cli.officer
    before = dict(os.environ)
    monkeypatch.setenv("SAU_HOME", str(tmp_path))
    settings.cache_clear()
    yield Ledger(settings().ledger_url)
    settings.cache_clear()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def asked(ledger):
    return ledger.submit("tiny", "demo-0002", received_at=NOW - timedelta(days=9)).id


@pytest.mark.parametrize("language", languages())
def test_every_ground_of_every_law_is_a_sentence_in_every_language(language):
    days = {"received_at": NOW, "decided_at": NOW, "deadline_at": NOW}
    for law, grounds in GROUNDS.items():
        said = set()
        for ground in grounds:
            told = Notice(about=About.REFUSAL, request_id="r-1", law=law, grounds=(ground,), **days)
            text = write_notice(told, language=language)
            assert "{" not in text, "what stands in braces is filled in"
            said.add(text)
        assert len(said) == len(grounds)
    with pytest.raises(ConfigError, match="has to be one of de, en"):
        write_notice(told, language="fr")


def test_a_refusal_says_the_ground_the_day_and_where_to_complain(ledger, asked):
    refuse(ledger, asked, "legal-claims", "confidential: case 12 against them", "Ada")
    text = notice(asked)
    for words in (asked, TODAY, "Art. 17(3)(e)", "supervisory authority", "judicial remedy", "ask again"):
        assert words in text
    assert "confidential" not in text, "what the ledger notes is not for the person"
    assert "demo-0002" not in text
    assert "<p>One &lt;b&gt; more.</p>" in notice(asked, say="One <b> more.", html=True)
    assert "Art. 17 Abs. 3 Buchst. e" in notice(asked, language="de")


def test_an_extension_says_both_days_and_the_reason(ledger, asked):
    before = ledger.get(asked).deadline_at
    after = extend(ledger, asked, "many requests at once", "Ada").deadline_at
    text = notice(asked)
    for words in (f"{before:%d %B %Y}", f"{after:%d %B %Y}", "many requests at once"):
        assert words in text
    assert "ask again" not in text, "nothing was refused"
    assert "many requests" not in notice(asked, say="Your case is complex.")


def test_a_refusal_in_part_says_how_many_rows_stay(ledger, asked):
    decide_rows(ledger, asked, ["a-1", "a-2"], "keep", "x", "Ada", ground="archiving")
    decide_rows(ledger, asked, ["b-1"], "keep", "somebody else's", "Ada")
    text = notice(asked, About.PARTIAL)
    assert "for 2 of the records" in text
    assert "Art. 17(3)(d)" in text
    decide_rows(ledger, asked, ["a-1", "a-2"], "forget", "x", "Ada")
    assert notices_of(ledger.get(asked)) == [], "taken back"


def test_what_was_decided_last_is_told_and_what_was_not_is_refused(ledger, asked):
    with pytest.raises(RequestError, match="neither refused nor extended"):
        notice(asked)
    extend(ledger, asked, "late", "Ada")
    decide_rows(ledger, asked, ["a-1"], "keep", "x", "Ada", ground="archiving")
    refuse(ledger, asked, "unfounded", "x", "Ada")
    assert notices_of(ledger.get(asked)) == [About.EXTENSION, About.PARTIAL, About.REFUSAL]
    assert "manifestly unfounded" in notice(asked)
    other = ledger.submit("tiny", "demo-0003", law=Law.CCPA).id
    with pytest.raises(RequestError, match="has no refusal"):
        notice(other, About.REFUSAL)
    refuse(ledger, other, "research", "x", "Ada")
    assert "California Privacy Protection Agency" in notice(other)


def test_the_command_prints_it_or_writes_a_page(ledger, asked, tmp_path):
    refuse(ledger, asked, "expression", "x", "Ada")
    run = CliRunner()
    assert "Art. 17(3)(a)" in run.invoke(app, ["request", "letter", asked]).output
    page = tmp_path / "letter.html"
    done = run.invoke(app, ["request", "letter", asked, "--language", "de", "--html", str(page)])
    assert (done.exit_code, done.output) == (0, "")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "has to be one of refusal" in run.invoke(app, ["request", "letter", asked, "--about", "x"]).output
