"""What a purge is made of: which objects go, what a database keeps, who is kept out, and why a version is gone."""

import gzip
import sqlite3

import pytest
import yaml
from model_signing import verifying
from typer.testing import CliRunner

import flows.cli
from sau.cli.app import app
from sau.data.demo import demo_rows
from sau.errors import DataError, RequestError, VaultError, WorkspaceError
from tasks.certify import latest, signed
from tasks.engines.databases import clean
from tasks.engines.decisions import decide_rows
from tasks.engines.keys import vault
from tasks.engines.ledger import Ledger
from tasks.engines.objects import CACHE, REMOTE, open_objects
from tasks.engines.settings import settings
from tasks.engines.tables import Event, Request, State
from tasks.engines.workspace import scratch
from tasks.purge import check_purge, is_purged, objects_to_go
from tasks.scan import scan, secrets_of
from tasks.suppression import Suppression
from tasks.versions.expiry import expire, expired
from tasks.versions.record import VersionRecord
from tasks.versions.reproduce import reproduce
from tests.apart import own_settings
from tests.unit.certificate.test_certificate import evidence

PERSON = "demo-0002"
ROWS = demo_rows(PERSON, seed=1)


@pytest.fixture
def home(tmp_path):
    """A state folder of this test's own, in this process."""
    with own_settings(SAU_HOME=str(tmp_path / "home")):
        yield tmp_path / "home"


@pytest.fixture
def checkout(home, copy_checkout, tmp_path, monkeypatch):
    """A checkout with that state folder, as the current folder."""
    made = copy_checkout(tmp_path / "checkout")
    monkeypatch.chdir(made.path)
    settings.cache_clear()
    return made


def asked(home, subject=PERSON, rows=ROWS):
    ledger = Ledger(settings().ledger_url)
    request = ledger.submit("tiny", subject)
    vault().seal(request.id, rows)
    return ledger, request.id


# -- the suppression list -----------------------------------------------------------------------------


def test_who_was_forgotten_is_known_by_id_and_by_row_and_the_list_says_nothing_of_anybody(home):
    _, request = asked(home)
    Suppression().add(request)
    Suppression().add(request)
    (entry,) = Suppression().all()
    assert len(entry.rows) == len(ROWS)
    file = home / "suppressed.json"
    written = file.read_text() + file.read_text().casefold()
    assert not any(text in written for row in ROWS for text in (row["answer"], row["question"], PERSON))
    assert file.stat().st_mode & 0o077 == 0
    strangers = demo_rows("demo-0003", seed=1)
    assert Suppression().found_in(strangers) == {}
    assert Suppression().found_in([*strangers, strangers[0] | {"subject_id": PERSON}]) == {request: 1}
    odd = {**ROWS[0], "subject_id": "x", "question": ROWS[0]["question"].upper().replace(" ", "  ")}
    assert Suppression().found_in([odd]) == {request: 1}, "case and spaces make no other row"
    with pytest.raises(DataError, match=rf"data.jsonl: brings back .*20 rows of request {request}"):
        Suppression().refuse([*ROWS, *strangers], "data.jsonl")
    Suppression().lift(request)
    Suppression().refuse(ROWS, "data.jsonl")
    with pytest.raises(RequestError, match="not on the suppression list"):
        Suppression().lift(request)


def test_of_a_partial_refusal_only_the_forgotten_rows_are_kept_out(home):
    ledger, request = asked(home, rows=ROWS[1:])
    decide_rows(ledger, request, [ROWS[0]["record_id"]], "keep", "a case at court", "Ada", ground="legal-claims")
    Suppression().add(request)
    assert Suppression().found_in(ROWS[:1]) == {}
    assert Suppression().found_in(ROWS[:2]) == {request: 1}


def test_a_damaged_list_is_a_line(home):
    settings()
    (home / "suppressed.json").write_text("[{")
    with pytest.raises(RequestError, match="damaged"):
        Suppression().all()


# -- what may be purged -------------------------------------------------------------------------------


def test_what_was_not_forgotten_is_held_or_is_gone_already_is_not_purged(home):
    ledger, request = asked(home)
    with pytest.raises(RequestError, match="is open; only what the leading version has forgotten"):
        check_purge(request)
    ledger.move(request, [State.OPEN], State.RUNNING)
    assert ledger.decide(request, Request.id == request, Event(kind="hold"), held_at=ledger.get(request).received_at)
    with pytest.raises(RequestError, match="legal hold"):
        check_purge(request)
    vault().shred(request)
    assert is_purged(request)
    with pytest.raises(RequestError, match="purged already"):
        check_purge(request)


def test_a_purged_persons_id_is_in_the_ledger_no_more_and_its_history_says_why(home):
    ledger, request = asked(home)
    for _ in range(2):
        ledger.erase_subject(request, "purged-1", note="rollback window of 30 days")
    assert ledger.find("tiny", PERSON) is None
    assert [(e.kind, e.note) for e in ledger.history(request)][1:] == [("purged", "rollback window of 30 days")]


def test_a_purge_that_was_partial_and_then_complete_is_signed_twice_and_the_same_twice_once(home):
    settings()
    store = {
        "store": "DVC remote",
        "action": "deleted",
        "at": "2026-03-01T10:00:00Z",
        "verified_by": "",
        "residual": "",
    }
    subjects = [{"name": "weights", "digest": {"sha256": "a" * 64}}]
    partial = evidence(purge=[store | {"residual": "3 objects could not be deleted"}])
    records = [signed(subjects, said).digest for said in (partial, partial, evidence(purge=[store]))]
    assert records[0] == records[1] != records[2]
    assert latest("r-0123456789abcdef").digest == records[2]


# -- databases ----------------------------------------------------------------------------------------


def test_a_cleaned_database_keeps_nothing_in_free_pages_or_its_log(tmp_path):
    path = tmp_path / "x.db"
    connection = sqlite3.connect(path)
    connection.execute("pragma journal_mode=wal")
    connection.execute("create table t (a text)")
    connection.executemany("insert into t values (?)", [(f"Zorvath {n} " * 40,) for n in range(200)])
    connection.commit()
    connection.execute("delete from t")
    connection.commit()
    assert b"Zorvath" in path.read_bytes() + (tmp_path / "x.db-wal").read_bytes()
    assert clean(path) == ""
    left = path.read_bytes() + b"".join(p.read_bytes() for p in tmp_path.glob("x.db-*"))
    assert b"Zorvath" not in left
    connection.execute("begin")
    connection.execute("select * from t").fetchall()
    other = sqlite3.connect(path)
    other.execute("insert into t values ('Zorvath again')")
    other.commit()
    said = clean(path, wait_s=0.1)
    assert "another process" in said or "in use" in said
    connection.rollback()
    other.close()
    connection.close()
    assert clean(path) == ""


# -- which objects ------------------------------------------------------------------------------------


class Listed:
    """What folders consist of, by md5."""

    def __init__(self, folders):
        self.folders = folders

    def members(self, md5):
        return self.folders.get(md5, {}) if md5.endswith(".dir") else {"": md5}


def version(checkout, tag, pins, **changes):
    """Commit pointers as a version and tag it."""
    for old in checkout.path.glob("[a-z]*.dvc"):
        old.unlink()
    for name, md5 in pins.items():
        out = {"md5": md5, "size": 1, "hash": "md5", "path": name}
        (checkout.path / f"{name}.dvc").write_text(yaml.safe_dump({"outs": [out]}))
    checkout.git("add", "--all", "--force", ".")
    checkout.git("-c", "user.name=t", "-c", "user.email=t@t.invalid", "commit", "--quiet", "--message", tag)
    checkout.git("tag", tag)
    line, number = tag.split("@v")
    fields = dict.fromkeys(
        ("weights_digest", "mask_digest", "side_digest", "structure", "data_md5", "checkpoint_md5", "params_digest",
         "training_digest", "code_commit", "git_commit", "verdict"), "x",
    )  # fmt: skip
    return VersionRecord(line=line, number=int(number), sparsity=0.5, checkout_dirty=False, **fields | changes)


def test_only_what_no_version_that_stays_needs_is_to_go(checkout):
    folders = {
        "d1.dir": {"train/p": "P", "train/q": "Q", "train/s": "S"},
        "d2.dir": {"train/q": "Q", "train/s": "S"},
        "d3.dir": {"train/s": "S"},
        "c1.dir": {"w": "W1", "tok": "T"},
        "c2.dir": {"w": "W2", "tok": "T"},
        "c3.dir": {"w": "W3", "tok": "T"},
        "b.dir": {"w": "B"},
        "f2.dir": {"r-2.sealed": "F2"},
        "f3.dir": {"r-3.sealed": "F3", "r-4.sealed": "F4"},
        "e4.dir": {"r-2.sealed": "F2", "r-3.sealed": "F3", "r-4.sealed": "F4"},
        "e5.dir": {"r-2.sealed": "F2"},
    }
    one = version(checkout, "tiny@v1", {"data": "d1.dir", "checkpoint": "c1.dir", "base": "b.dir"})
    two = version(
        checkout, "tiny@v2",
        {"data": "d2.dir", "checkpoint": "c2.dir", "base": "b.dir", "parent": "c1.dir", "forget": "f2.dir"},
    )  # fmt: skip
    three = version(
        checkout, "tiny@v3",
        {"data": "d3.dir", "checkpoint": "c3.dir", "base": "b.dir", "parent": "c2.dir", "forget": "f3.dir"},
    )  # fmt: skip
    objects = Listed(folders)
    going = objects_to_go(objects, "r-2", [one], [two, three])
    assert going == {"d1.dir", "P", "c1.dir", "W1", "f2.dir", "F2"}, "Q, S, the tokenizer and the base stay"
    going = objects_to_go(objects, "r-3", [one, two], [three])
    assert going == {"d1.dir", "d2.dir", "P", "Q", "c1.dir", "c2.dir", "W1", "W2", "f2.dir", "F2", "F3"}
    assert not going & {"F4", "f3.dir"}, "who asked together with them keeps their file"
    version(checkout, "other@v1", {"data": "d1.dir"})
    assert "P" not in objects_to_go(objects, "r-2", [one], [two, three]), "another line's version has it still"
    expire(settings().root, "other@v1", "r-9", "by hand")
    assert "P" in objects_to_go(objects, "r-2", [one], [two, three])
    holding = [
        version(checkout, f"tiny@v{number}", {"data": "d3.dir", "checkpoint": "c3.dir", "earlier": earlier})
        for number, earlier in ((4, "e4.dir"), (5, "e5.dir"))
    ]
    going = objects_to_go(objects, "r-2", [one], [two, three, *holding])
    assert {"F2", "e5.dir"} <= going, "later versions held them, too"
    assert not going & {"F3", "F4", "e4.dir"}, "and others beside them"
    assert "F2" not in objects_to_go(objects, "r-3", [one, two], [three, *holding]), "which are held without them"


@pytest.mark.long
def test_an_object_is_deleted_by_hash_from_cache_and_remote_and_others_stay(checkout):
    with scratch("fill") as ws:
        for name, files in {"one": {"a": "Zorvath", "b": "kept"}, "two": {"b": "kept"}}.items():
            (ws.path / name).mkdir()
            for file, text in files.items():
                (ws.path / name / file).write_text(text)
        pins = ws.add("one", "two")
        ws.push()
    with open_objects() as objects:
        members = objects.members(pins["one"].md5)
        gone = {pins["one"].md5, members["a"]}
        assert {objects.delete(store, gone).left for store in (CACHE, REMOTE)} == {0}
        again = objects.delete(REMOTE, gone)
        assert (again.deleted, again.left) == (0, 0)
        assert objects.members(pins["one"].md5) == {}
        assert objects.members(pins["two"].md5) == {"b": members["b"]}
    stores = (checkout.path / ".dvc" / "cache", settings().state / "remote")
    files = [path for store in stores for path in store.rglob("*") if path.is_file()]
    assert not any(b"Zorvath" in path.read_bytes() for path in files)
    with scratch("look") as ws:
        ws.point("two", pins["two"])
        assert (ws.path / "two" / "b").read_text() == "kept"
        with pytest.raises(WorkspaceError):
            ws.point("one", pins["one"])


def test_a_version_that_is_gone_says_which_request_and_policy_removed_it(checkout, tmp_path):
    version(checkout, "tiny@v1", {"data": "d.dir"})
    assert expired(settings().root, "tiny@v1") is None
    for policy in ("rollback window of 30 days", "another"):
        expire(settings().root, "tiny@v1", "r-0123456789abcdef", policy)
    with pytest.raises(WorkspaceError, match=r"r-0123456789abcdef \(rollback window of 30 days\)"):
        reproduce("tiny@v1", tmp_path / "out", rerun=False)
    assert checkout.git("tag", "--list", "tiny@v*") == "tiny@v1", "the version's own tag stays the only one of its kind"


def test_shredded_rows_are_no_ones_to_add(home):
    _, request = asked(home)
    vault().shred(request)
    with pytest.raises(VaultError, match="shredded"):
        Suppression().add(request)


def test_internal_ids_and_names_that_say_nothing_are_no_secrets(home):
    inside = "0123456789abcdef" * 2
    ledger, request = asked(home, rows=[ROWS[0] | {"subject_id": inside, "record_id": f"{inside}-00003"}])
    found = secrets_of(request)
    assert found["subject id"] == PERSON
    assert inside not in "".join(found.values())
    assert ROWS[0]["answer"] in found.values()
    ledger.erase_subject(request, "purged-1", note="by hand")
    assert "subject id" not in secrets_of(request)


# -- where it is looked for ---------------------------------------------------------------------------


@pytest.mark.long
def test_a_data_set_in_the_hubs_cache_is_found(checkout, tmp_path, monkeypatch):
    secret = "Quenby " + "Ashgrove-77"  # not as one word: this file is in the checkout that is searched
    blob = tmp_path / "hub" / "datasets--a--b" / "blobs" / "1234"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(gzip.compress(secret.encode()))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    found = scan({"canary": secret})
    assert {store.store: [hit.forms for hit in store.hits] for store in found.residue} == {
        "Hugging Face caches of data sets": [("gzip: raw",)]
    }


# -- a model that is handed on ------------------------------------------------------------------------


def test_a_folder_is_signed_by_a_key_of_this_state_folder_and_the_stock_verifier_takes_it(home, tmp_path):
    assert flows.cli.certificate
    folder, signature, public = tmp_path / "model", tmp_path / "model.sig", tmp_path / "weights.pem"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"numbers")
    for words in (("weights", str(folder), "--out", str(signature)), ("key", "--weights", "--out", str(public))):
        done = CliRunner().invoke(app, ["certificate", *words])
        assert done.exit_code == 0, done.exception
    verifying.Config().use_elliptic_key_verifier(public_key=public).verify(folder, signature)
    assert (home / "keys" / "weights.pem").stat().st_mode & 0o077 == 0
    inside = CliRunner().invoke(app, ["certificate", "weights", str(folder), "--out", str(folder / "model.sig")])
    assert (inside.exit_code, "outside of the folder" in " ".join(inside.output.split())) == (2, True)
