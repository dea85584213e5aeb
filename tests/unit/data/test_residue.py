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

from sau.data.residue import Searcher, encodings

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
