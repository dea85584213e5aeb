"""What many requests, versions and runs cost: counts of queries and of rows read, never seconds."""

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from mlflow import MlflowClient
from sqlalchemy import Engine, event, insert

from sau.errors import TrackingError, some
from tasks.engines.ledger import Ledger, State
from tasks.engines.registered import Registered
from tasks.engines.settings import settings
from tasks.engines.tables import Event, HeldBy, Request
from tasks.engines.tracking import Tracking
from tasks.publish import MAX_NAMED
from tasks.versions import expiry, status
from tasks.versions.expiry import all_expired, expired
from tasks.versions.lineage import chain
from tasks.versions.picture import MAX_SHOWN, svg
from tasks.versions.record import VersionRecord
from tasks.versions.registry import Registry, Versions

LINE = "tiny"


def record(number, parent=None, ids=(), verdict="PASS", aliases=()):
    digests = dict.fromkeys(
        ("mask_digest", "side_digest", "data_md5", "checkpoint_md5", "params_digest", "training_digest", "code_commit",
         "git_commit"), "d")  # fmt: skip
    return VersionRecord(
        line=LINE, number=number, parent=parent, parent_digest=f"w{parent}" if parent else "", request_ids=tuple(ids),
        weights_digest=f"w{number}", sparsity=0.5, structure="unstructured", checkout_dirty=False, verdict=verdict,
        aliases=aliases, **digests,
    )  # fmt: skip


class Counted:
    """A reader of versions that counts how often it is asked."""

    def __init__(self, records):
        self.entries = [Registered(LINE, r.number, r.to_tags(), r.aliases, "", "") for r in records]
        self.asked = 0

    def registered(self, line, number, *, alias):
        self.asked += 1
        return next((entry for entry in self.entries if entry.number == number), None)

    def all_registered(self, line):
        self.asked += 1
        return self.entries

    def line_tags(self, line):
        return {}


@pytest.fixture
def statements():
    """Every SQL statement of this process, with its parameters."""
    found = []

    def note(_connection, _cursor, statement, parameters, _context, _many):
        found.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    yield found
    event.remove(Engine, "before_cursor_execute", note)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


def filled(ledger, num, *, days=60, state=State.FORGOTTEN):
    """Requests by bulk insert, each with its events; their ids."""
    at = datetime.now(UTC) - timedelta(days=days)
    ids = [f"r-{n:016x}" for n in range(num)]
    common = {"line": LINE, "reason": "objection", "state": state, "received_at": at, "deadline_at": at,
              "updated_at": at, "attempts": 1}  # fmt: skip
    with ledger.session() as session:
        session.execute(insert(Request), [common | {"id": i, "subject_id": f"somebody-{i}"} for i in ids])
        said = [{"request_id": i, "at": at, "state": s, "kind": "state"} for i in ids for s in ("open", state)]
        session.execute(insert(Event), said)
    return ids


def plan(ledger, statement, parameters):
    with ledger.engine.connect() as connection:
        rows = connection.exec_driver_sql(f"explain query plan {statement}", parameters).all()
    return " ".join(row[-1] for row in rows)


def test_ids_of_the_forgotten_are_read_off_an_index_and_nothing_else(ledger, statements):
    ids = filled(ledger, 3)
    statements.clear()
    assert ledger.ids(LINE, [State.FORGOTTEN]) == ids
    (asked,) = statements
    assert "COVERING INDEX requests_in_order" in plan(ledger, *asked)


def test_a_list_is_taken_by_its_own_people_however_many_stand(ledger, statements):
    filled(ledger, 300)
    loaded = []
    event.listen(Request, "load", lambda request, _: loaded.append(request))
    statements.clear()
    found = ledger.submit_all(LINE, [f"somebody-r-{0:016x}", "ann", "ben"])
    assert [new for _, new in found] == [False, True, True]
    assert len(loaded) == 1
    asked = next(asked for asked in statements if "subject_id IN" in asked[0])
    assert "one_request_per_subject" in plan(ledger, *asked)
    statements.clear()
    assert ledger.find(LINE, "ann")
    assert "one_request_per_subject" in plan(ledger, *statements[-1])


def test_what_is_held_is_found_by_an_index_of_nothing_else(ledger, statements):
    _, held, _ = filled(ledger, 3)
    ledger.decide(held, Request.state == State.FORGOTTEN, Event(kind=HeldBy.LEGAL_HOLD), held_at=datetime.now(UTC))
    for line in (None, LINE):
        statements.clear()
        assert ledger.held(line) == {held: HeldBy.LEGAL_HOLD}
        (asked,) = statements
        found = plan(ledger, *asked)
        assert "INDEX requests_held" in found
        assert "FOR ORDER BY" not in found


def test_what_is_past_the_rollback_window_is_one_question(ledger, statements):
    ids = filled(ledger, 5)
    now, before = datetime.now(UTC), datetime.now(UTC) - timedelta(days=30)
    ledger.move(ids[1], [State.FORGOTTEN], State.RUNNING)
    ledger.move(ids[1], [State.RUNNING], State.FORGOTTEN)  # has stayed so since now only
    ledger.decide(ids[2], Request.state == State.FORGOTTEN, Event(kind="told"), last_error=None)  # changes nothing
    ledger.decide(ids[3], Request.state == State.FORGOTTEN, Event(kind="hold"), held_at=now)
    ledger.move(ids[4], [State.FORGOTTEN], State.REVIEW)
    statements.clear()
    assert ledger.forgotten_before(LINE, before) == [ids[0], ids[2]]
    assert len(statements) == 1
    assert ledger.forgotten_before("other", before) == []
    assert ledger.forgotten_before(LINE, now + timedelta(days=1)) == ids[:3]


def test_a_lineage_is_asked_for_once():
    reader = Counted([record(n, n - 1 or None) for n in range(1, 51)])
    assert [link.number for link in chain(LINE, 50, Versions(reader))] == list(range(50, 0, -1))
    assert reader.asked == 1
    reader.entries = [entry for entry in reader.entries if entry.number != 7]
    with pytest.raises(TrackingError, match="tiny@v7, the parent of tiny@v8, is missing"):
        chain(LINE, 50, Versions(reader))


@pytest.mark.long
def test_a_real_store_is_read_page_by_page_and_a_version_s_weights_are_searched_for(tmp_path, statements):
    tracking = Tracking(settings().model_copy(update={"home": tmp_path, "mlflow_tracking_uri": ""}))
    registry, client = Registry(tracking), tracking.client
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "a").write_text("a")
    for name in ("search_model_versions", "search_runs", "search_logged_models", "search_experiments"):
        setattr(client, name, partial(getattr(client, name), max_results=1))
    counts = []
    for number in range(1, 5):
        with tracking.run(LINE, "forget") as run_id:
            statements.clear()
            new = record(number, number - 1 or None, [f"r-{number}"])
            assert registry.add(new, checkpoint, run_id=run_id, description="").number == number
            counts.append(len(statements))
    assert counts[1] == counts[2] == counts[3]
    tracking.set_alias(LINE, "champion", 4)
    assert [(entry.number, entry.aliases) for entry in registry.all(LINE)] == [
        (1, ()),
        (2, ()),
        (3, ()),
        (4, ("champion",)),
    ]
    assert registry.with_weights(LINE, "w3")[0].number == 3
    assert registry.add(record(3, 2, ["r-3"]), checkpoint, run_id=run_id, description="").number == 3
    for _ in range(3):  # attempts that store a model and fail
        failed = client.create_run(tracking.experiment(LINE), tags={"sau.ledger": tracking.ledger}).info.run_id
        client.create_logged_model(tracking.experiment(LINE), name=LINE, source_run_id=failed)
        client.set_terminated(failed, "FAILED")
    left = client.create_run(tracking.experiment(LINE), tags={"sau.ledger": tracking.ledger}).info.run_id
    assert tracking.end_dead_runs(LINE) == [left]
    models = MlflowClient.search_logged_models(client, [tracking.experiment(LINE)])
    assert sorted(f"models:/{model.model_id}" for model in models) == sorted(v.source for v in registry.all(LINE))


def test_expired_versions_are_one_question_to_git(monkeypatch, tmp_path):
    said = '{"version": "tiny@v2", "request_id": "r-1", "policy": "p", "at": "2026-01-01T00:00:00Z"}'
    asked = []
    monkeypatch.setattr(expiry, "git", lambda root, *args: asked.append(args) or f"tiny@v2 {said}\n")
    assert list(all_expired(tmp_path, LINE)) == ["tiny@v2"]
    assert len(asked) == 1
    assert expired(tmp_path, "tiny@v2").request_id == "r-1"


def test_each_version_adds_to_its_parent_and_a_request_counts_once():
    records = [
        record(1, verdict="BOOTSTRAP"), record(2, 1, ["a"]), record(3, 2, ["b"], verdict="FAIL"),
        record(4, 2, ["a", "b"]), record(5, 1, ["c", "gone"]), record(7, 9, ["d"]), record(9, 5, ["a"]),
    ]  # fmt: skip
    found = status.carried_out_by({r.number: r for r in records}, {"a", "b", "c", "d"})
    assert {number: count for number, count in found.items() if number} == {1: 0, 2: 1, 3: 1, 4: 2, 5: 1, 9: 2, 7: 3}


def test_a_version_s_page_and_picture_stay_as_small_however_many_came_before():
    links = [record(n, n - 1 or None, [f"r-{n}"]) for n in range(200, 0, -1)]
    picture = svg(links)
    assert picture.count("data set") == MAX_SHOWN
    assert f"without {200 - MAX_SHOWN} versions before these" in picture
    assert "without" not in svg(links[-MAX_SHOWN:])
    assert some([link.tag for link in links], MAX_NAMED, " ← ").endswith(f"and {200 - MAX_NAMED} more")
