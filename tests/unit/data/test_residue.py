"""The residue search finds a secret in every encoding it names, and what is not there it does not find."""

import base64
import gzip
import io
import json
import pickle
import sqlite3
import zipfile
import zlib

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sau.data.needles import STEP, Needles
from sau.data.residue import Searcher, encodings
from tests.hostile import damaged, examples

SECRET = "Zorvath Quelländer-9f3, born “in” the harbour"
NOISE = b"some other bytes \x00\x01\x02 before and after "


def written(secret: str) -> dict[str, bytes]:
    """The secret in a file's bytes, by how."""
    raw = secret.encode()
    table = pyarrow.table({"answer": [secret, "else"] * 50})
    parquet, arrow, archive = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pyarrow.parquet.write_table(table, parquet, compression="zstd")
    with pyarrow.ipc.new_file(arrow, table.schema, options=pyarrow.ipc.IpcWriteOptions(compression="zstd")) as file:
        file.write_table(table)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("inside.txt", NOISE + raw)
    made = {
        "raw": NOISE + raw + NOISE,
        "utf-16": NOISE + secret.encode("utf-16-le"),
        "utf-16-be": NOISE + secret.encode("utf-16-be"),
        "json": json.dumps({"x": secret}).encode(),
        "json in json": json.dumps({"x": json.dumps({"y": secret})}).encode(),
        "hex": NOISE + raw.hex().encode(),
        "gzip": gzip.compress(NOISE + raw),
        "zlib": zlib.compress(NOISE + raw),
        "zstd": zstandard.compress(NOISE + raw),
        "zip": archive.getvalue(),
        "parquet": parquet.getvalue(),
        "arrow": arrow.getvalue(),
        "pickle": pickle.dumps({"rows": [secret]}),
        "pickle in lines of base64": base64.encodebytes(pickle.dumps({"rows": ["x" * 50, secret]})),
        "gzip in base64": json.dumps({"blob": base64.b64encode(gzip.compress(NOISE + raw)).decode()}).encode(),
    }
    for shift in range(3):
        made[f"base64 at {shift}"] = base64.b64encode(b"-" * shift + raw + b"tail")
        made[f"url-safe base64 at {shift}"] = base64.urlsafe_b64encode(b"-" * shift + raw + b"tail")
        made[f"base64 in lines at {shift}"] = base64.encodebytes(b"-" * (shift + 60) + raw + b"tail")
    return made


@pytest.mark.parametrize("how", written(SECRET))
def test_a_secret_is_found_however_it_was_written(how, tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(written(SECRET)[how])
    found = Searcher({"answer 1": SECRET, "another": "nowhere to be found"}).in_file(path)
    assert found is not None, how
    assert found.labels == ("answer 1",)


def test_it_is_found_where_a_database_has_deleted_it_and_in_its_log(tmp_path):
    path = tmp_path / "x.db"
    connection = sqlite3.connect(path)
    connection.execute("pragma journal_mode=wal")
    connection.execute("pragma secure_delete=off")
    connection.execute("create table t (a text)")
    connection.executemany("insert into t values (?)", [("y" * 500,)] * 50 + [(SECRET,)])
    connection.commit()
    connection.execute("pragma wal_checkpoint(truncate)")
    connection.execute("delete from t")
    connection.commit()
    searcher = Searcher({"s": SECRET})
    assert searcher.in_file(path) is not None
    connection.execute("insert into t values (?)", (SECRET + " again",))
    connection.commit()
    assert Searcher({"s": SECRET + " again"}).in_file(tmp_path / "x.db-wal") is not None
    connection.close()


def test_a_value_that_is_longer_than_a_page_is_found_whole(tmp_path):
    path, secret = tmp_path / "x.db", "Zorvath " * 2000
    with sqlite3.connect(path) as connection:
        connection.execute("create table t (a text)")
        connection.execute("insert into t values (?)", (secret,))
    connection.close()
    assert secret.encode() not in path.read_bytes(), "its pages cut it"
    assert "database: raw" in Searcher({"s": secret}).in_file(path).forms


def test_a_files_name_is_searched(tmp_path):
    (tmp_path / f"of {SECRET[:16]}.txt").write_bytes(b"nothing")
    found = Searcher({"s": SECRET[:16]}).in_file(next(tmp_path.iterdir()))
    assert found.forms == ("name: raw",)
    assert SECRET[:16] not in found.where


def test_what_is_not_there_is_not_found_and_short_secrets_are_said_to_be_left_out(tmp_path):
    searcher = Searcher({"s": "Mirabelle Oakwright", "short": "Ann"})
    assert searcher.too_short == ["short"]
    for content in written(SECRET).values():
        assert searcher.in_bytes(content) == set()


def test_nothing_of_a_secret_is_in_what_is_said_of_it(tmp_path):
    (tmp_path / "f").write_bytes(SECRET.encode())
    assert SECRET not in Searcher({"s": SECRET}).in_file(tmp_path / "f").model_dump_json()


@pytest.mark.parametrize("length", range(6, 30))
def test_the_core_of_base64_does_not_depend_on_its_neighbours(length):
    secret = "abcdefghijklmnopqrstuvwxyz0123"[:length]
    cores = [needle for form, needle in encodings(secret) if form == "base64"]
    assert cores or length < 8
    for shift in range(3):
        around = base64.b64encode(b"\xff" * shift + secret.encode() + b"\xfe\xfd")
        assert length < 10 or any(core in around for core in cores)


@pytest.mark.parametrize(
    "content", [b"", b"\x1f\x8b", b"x\x9c", b"PK\x03\x04", b"PAR1", b"ARROW1", b"\x28\xb5\x2f\xfd", b"A" * 200]
)
def test_what_only_looks_packed_breaks_nothing(content):
    assert Searcher({"s": SECRET}).in_bytes(content) == set()


@given(
    content=st.binary(max_size=200).map(lambda raw: raw * 9),
    needles=st.lists(st.binary(min_size=6, max_size=90), max_size=6),
    cuts=st.lists(st.tuples(st.integers(0, 1700), st.integers(6, 90)), max_size=6),
)
def test_many_are_found_at_once_as_one_by_one(content, needles, cuts):
    mine = [*needles, *(cut for start, size in cuts if len(cut := content[start : start + size]) >= 6)]
    found = Needles((needle, (str(place), "")) for place, needle in enumerate(mine)).within(content)
    assert found == {(str(place), "") for place, needle in enumerate(mine) if needle in content}


@pytest.mark.parametrize("at", [0, STEP - 40, STEP - 1, STEP, 2 * STEP - 3])
@pytest.mark.parametrize("size", [6, 64, 5000])
def test_what_lies_across_two_pieces_is_found(at, size):
    needle = bytes(n % 251 for n in range(size))
    assert Needles([(needle, ("s", "raw"))]).within(b"\0" * at + needle + b"\0" * 9) == {("s", "raw")}


# -- what is packed to do harm -----------------------------------------------------------------------------


def zipped(members, level=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", level) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return out.getvalue()


def table(rows, columns=1):
    out = io.BytesIO()
    column = pyarrow.DictionaryArray.from_arrays([0] * rows, ["a" * 50_000])
    made = pyarrow.table({f"c{n}": column for n in range(columns)})
    pyarrow.parquet.write_table(made, out)
    return out.getvalue()


def nested(pack, depth, content):
    for _ in range(depth):
        content = pack(content)
    return content


ZEROS = bytes(1 << 20)
BOMBS = {
    "gzip": lambda: gzip.compress(ZEROS * 16),
    "zlib": lambda: zlib.compress(ZEROS * 16),
    "zstd": lambda: zstandard.compress(ZEROS * 16),
    "zip": lambda: zipped({f"{n}": ZEROS for n in range(16)}),
    "zips in a zip": lambda: zipped({f"{n}": zipped({f"{m}": ZEROS for m in range(8)}) for n in range(8)}),
    "gzip in gzip in gzip": lambda: nested(gzip.compress, 3, ZEROS * 16),
    "parquet": lambda: table(400, columns=3),
    "base64 of gzip": lambda: base64.b64encode(gzip.compress(ZEROS * 16)) * 40,
}


@pytest.mark.parametrize("how", BOMBS)
def test_of_what_unpacks_to_far_more_a_part_is_searched_and_it_is_said(monkeypatch, tmp_path, how):
    """In memory that does not grow with it."""
    monkeypatch.setattr("sau.data.residue.MAX_UNPACKED", 1 << 20)
    (tmp_path / "f").write_bytes(content := BOMBS[how]())
    assert len(content) < 1 << 20
    searcher, seen = Searcher({"s": SECRET}), []
    within = searcher._needles.within
    monkeypatch.setattr(searcher._needles, "within", lambda view: seen.append(len(view)) or within(view))
    assert searcher.in_file(tmp_path / "f") is None
    assert searcher.cut_off == 1
    assert sum(seen) < 4 << 20


def test_of_a_file_that_is_too_large_to_unpack_every_byte_is_searched(monkeypatch, tmp_path):
    monkeypatch.setattr("sau.data.residue.MAX_UNPACKED", 100)
    for at in (0, 60, 90, 100, 195, 1000):
        (tmp_path / "f").write_bytes(b"." * at + SECRET.encode() + b"." * 200)
        searcher = Searcher({"s": SECRET})
        assert searcher.in_file(tmp_path / "f").forms == ("raw",)
        assert searcher.cut_off == 1
    (tmp_path / "f").write_bytes(b"." * 1000)
    assert Searcher({"s": "short"}).in_file(tmp_path / "f") is None


@pytest.mark.parametrize("how", ["gzip", "zlib", "zstd", "zip", "parquet", "arrow", "gzip in base64"])
@examples(15)
@given(data=st.data())
def test_damaged_archives_are_searched_as_far_as_they_go(how, data):
    Searcher({"s": SECRET}).in_bytes(data.draw(damaged(written(SECRET)[how])))
