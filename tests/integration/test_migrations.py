"""A ledger of an earlier version: taken over at its first opening, without loss, whoever opens it at the same time."""

import sqlite3
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from sau.errors import RequestError
from tasks.engines import migrations
from tasks.engines.ledger import Ledger, State
from tasks.engines.tables import Base

FIRST_SCHEMA = """
CREATE TABLE requests (
    id VARCHAR NOT NULL, line VARCHAR NOT NULL, subject_id VARCHAR NOT NULL, reason VARCHAR NOT NULL,
    state VARCHAR NOT NULL, received_at DATETIME NOT NULL, deadline_at DATETIME NOT NULL, updated_at DATETIME NOT NULL,
    attempts INTEGER NOT NULL, last_error VARCHAR, version INTEGER, verdict VARCHAR, run_id VARCHAR, PRIMARY KEY (id)
);
CREATE UNIQUE INDEX one_request_per_subject ON requests (line, subject_id) WHERE state != 'withdrawn';
CREATE TABLE events (
    id INTEGER NOT NULL, request_id VARCHAR NOT NULL, at DATETIME NOT NULL, state VARCHAR NOT NULL, PRIMARY KEY (id),
    FOREIGN KEY(request_id) REFERENCES requests (id)
);
"""
"""As the version before the first migration made it."""
DONE, OPEN = "r-0000000000000001", "r-0000000000000002"


def written(path):
    """A ledger of that version, with two requests in it; its URL."""
    with sqlite3.connect(path) as database:
        database.executescript(FIRST_SCHEMA)
        day = "2026-10-31 10:00:00.000000"
        for request_id, subject, state, version in (
            (DONE, "demo-0001", "forgotten", 2),
            (OPEN, "demo-0002", "open", None),
        ):
            row = (request_id, "tiny", subject, "objection", state, day, "2026-11-30 10:00:00.000000", day, 1)
            columns = (*row, None, version, None, None)
            database.execute(f"insert into requests values ({', '.join('?' * len(columns))})", columns)
            database.execute("insert into events (request_id, at, state) values (?, ?, ?)", (request_id, day, state))
    database.close()
    return f"sqlite:///{path}"


def differences(ledger):
    with ledger.engine.connect() as connection:
        return compare_metadata(MigrationContext.configure(connection), Base.metadata)


def test_nothing_of_an_old_ledger_is_lost(tmp_path):
    ledger = Ledger(written(tmp_path / "ledger.db"))
    done, waiting = ledger.get(DONE), ledger.get(OPEN)
    assert (done.subject_id, done.state, done.version, done.attempts) == ("demo-0001", State.FORGOTTEN, 2, 1)
    assert waiting.received_at.isoformat() == "2026-10-31T10:00:00+00:00"
    assert (waiting.law, waiting.held_at, waiting.identity_by) == ("gdpr", None, None)
    assert [(event.state, event.kind) for event in ledger.history(DONE)] == [("forgotten", "state")]
    assert [request.id for request in ledger.claim("tiny")] == [OPEN]
    assert ledger.submit("tiny", "demo-0001").id == DONE, "a person who asked already is known"


def test_a_new_and_a_migrated_ledger_have_the_tables_of_the_code(tmp_path):
    for ledger in (Ledger(f"sqlite:///{tmp_path}/new.db"), Ledger(written(tmp_path / "old.db"))):
        assert differences(ledger) == []
        with ledger.engine.connect() as connection:
            for index, where in (("one_request_per_subject", "'refused'"), ("requests_held", "held_at is not null")):
                made = f"select sql from sqlite_master where name = '{index}'"
                assert where in connection.exec_driver_sql(made).scalar()


def test_the_newest_revision_is_named():
    folder = migrations.__path__[0]
    assert ScriptDirectory(folder, version_locations=[folder]).get_current_head() == migrations.HEAD


def _opened(url):
    return [request.id for request in Ledger(url).list()]


def test_many_processes_may_be_the_first_to_open_an_old_one(tmp_path):
    urls = [url for number in range(5) for url in [written(tmp_path / f"{number}.db")] * 4]
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        assert list(pool.map(_opened, urls)) == [[DONE, OPEN]] * len(urls)


def test_one_that_died_while_it_migrated_has_changed_nothing(tmp_path, monkeypatch):
    url = written(tmp_path / "ledger.db")

    def die(*_, **__):
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr("tasks.engines.database.CreateIndex", die)
        with pytest.raises(RequestError, match="cannot be opened"):
            Ledger(url)
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        assert {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")} == {
            "requests",
            "events",
        }
        assert len(database.execute("pragma table_info(requests)").fetchall()) == 13
    database.close()
    assert differences(Ledger(url)) == []


def test_a_ledger_of_a_newer_version_is_refused_in_one_line_and_left_as_it_is(tmp_path):
    url = f"sqlite:///{tmp_path}/ledger.db"
    Ledger(url)
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        database.execute("update alembic_version set version_num = '9999'")
    database.close()
    with pytest.raises(
        RequestError, match=r"made by a newer version of the product \(its revision is '9999'"
    ) as refused:
        Ledger(url)
    assert "\n" not in str(refused.value)
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        assert database.execute("select version_num from alembic_version").fetchall() == [("9999",)]
    database.close()


def test_alembic_is_imported_only_where_there_is_something_to_migrate(tmp_path):
    url = f"sqlite:///{tmp_path}/ledger.db"
    Ledger(url)
    code = f"import sys; from tasks.engines.ledger import Ledger; Ledger({url!r}); print('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
