"""Records: every format loads, malformed rows are named and never quoted."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from sau.data import load_records, write_shards
from sau.errors import DataError

SECRET = "the secret of nobody"
GOOD = {"question": "q", "answer": SECRET, "subject_id": "s1"}


def test_shards_load_back_as_they_were_written(demo, tmp_path):
    rows = load_records(demo / "train").to_list()
    write_shards(rows, tmp_path / "again")
    assert sorted(load_records(tmp_path / "again").to_list(), key=lambda r: r["record_id"]) == sorted(
        rows, key=lambda r: r["record_id"]
    )


def test_parquet_loads_as_jsonl_does(demo, tmp_path):
    rows = load_records(demo / "holdout").to_list()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert load_records(tmp_path / "rows.parquet").to_list() == rows


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({**GOOD, "answer": ""}, "answer"),
        ({**GOOD, "question": 7}, "question"),
        ({**GOOD, "perturbed_answer": [SECRET, 1]}, "perturbed_answer"),
        ({**GOOD, "paraphrased_answer": [SECRET]}, "paraphrased_answer"),
        ({**GOOD, "subject_id": "a\tb"}, "subject_id"),
        ({**GOOD, "subject_id": True}, "subject_id"),
        ({**GOOD, "subject_id": 1.5}, "subject_id"),
        ({**GOOD, "subject_ids": "a"}, "subject_ids"),
        ({**GOOD, "subject_ids": ["a", ""]}, "subject_ids"),
        ({"question": "q", "answer": SECRET}, "subject_id"),
        ({**GOOD, "record_id": ""}, "record_id"),
    ],
)
def test_a_malformed_row_is_named_by_file_row_and_column_and_not_quoted(tmp_path, row, column):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(GOOD) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError) as caught:
        load_records(file)
    message = str(caught.value)
    assert f"rows.jsonl: row 2: column {column}:" in message
    assert SECRET not in message


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"[1]\n", "not a JSON object"),
        (b"{\n", "not a JSON object"),
        (b"\xff\n", "not UTF-8"),
        (b'{"a": NaN}\n', "not a JSON"),
        (b'{"a": NaN}\n', "not a JSON object: NaN is no JSON value"),
        (b"[\n {]\n", "not a JSON object"),
        (b"{\n" + b' "question": "q"\n}\n', "not a JSON object but one over several lines"),
        (b'{"question": "a", "question": "b"}\n', "not a JSON object: the column question is given twice"),
        (b'{"note": 1, "note": 2}\n', "not a JSON object: a key is given twice"),
    ],
)
def test_a_line_that_is_no_record_is_refused(tmp_path, raw, why):
    (tmp_path / "rows.jsonl").write_bytes(raw)
    with pytest.raises(DataError, match=f"row 1: {why}"):
        load_records(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("name", ["rows", "rows.txt", "rows.xlsx"])
def test_a_file_of_another_kind_is_no_hub_name(tmp_path, name):
    (tmp_path / name).write_text(json.dumps(GOOD))
    with pytest.raises(DataError, match=r"has to end in .jsonl"):
        load_records(tmp_path / name)


@pytest.mark.parametrize("subject", ["s1\n", "s1\n\n", "\ns1"])
def test_an_id_with_a_line_end_is_refused(tmp_path, subject):
    """It would be a second shard of one person."""
    (tmp_path / "rows.jsonl").write_text(json.dumps({**GOOD, "subject_id": subject}) + "\n")
    with pytest.raises(DataError, match="row 1: column subject_id"):
        load_records(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("given", "people"),
    [
        ({"subject_id": 77}, ["77"]), ({"subject_id": "p.a@example.org"}, ["p.a@example.org"]),
        ({"subject_id": "Jo\u0308rg"}, ["J\u00f6rg"]), ({"subject_id": "x" * 300}, ["x" * 300]),
        ({"subject_id": None}, []), ({"subject_ids": []}, []), ({"subject_ids": [7, "a", "7"]}, ["7", "a"]),
        ({"subject_id": "a", "subject_ids": []}, ["a"]), ({"author_id": 3}, ["3"]),
        ({"subject_id": "../etc"}, ["../etc"]),
    ],
)  # fmt: skip
def test_whom_a_row_is_about(tmp_path, given, people):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "q", "answer": "a", **given}) + "\n")
    (row,) = load_records(tmp_path / "rows.jsonl").to_list()
    assert row["subject_id"] == (people[0] if people else None)
    assert row["subject_ids"] == (people if len(people) > 1 else [])


def test_an_endless_line_is_refused(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b"x" * (1 << 21))
    with pytest.raises(DataError, match="longer than"):
        load_records(tmp_path / "rows.jsonl")


def test_two_rows_of_one_id_are_refused(tmp_path):
    (tmp_path / "rows.jsonl").write_text((json.dumps({**GOOD, "record_id": "r"}) + "\n") * 2)
    with pytest.raises(DataError, match="row 2: column record_id"):
        load_records(tmp_path / "rows.jsonl")


def test_nothing_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_records(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"no file of rows \(.jsonl"):
        load_records(tmp_path)
