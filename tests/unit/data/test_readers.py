"""What rows are saved as: every encoding and format is read, or named for what it is."""

import csv
import gzip
import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub import constants, hf_hub_download

from sau.data.demo import demo_rows
from sau.data.readers import hub, read
from sau.data.records import load_records
from sau.errors import DataError

ROWS = [{"question": row["question"], "answer": f"{row['answer']} Ünd 京都", "subject_id": "p.a"}
        for row in demo_rows("a", seed=1)]  # fmt: skip
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
ARRAY = json.dumps(ROWS, ensure_ascii=False)


def table(rows, delimiter=","):
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.jsonl", LINES), ("rows.jsonl", LINES.replace("\n", "\r\n")), ("rows.jsonl", f"\n{LINES}\n\n"),
        ("rows.jsonl", ARRAY), ("rows.jsonl", json.dumps(ROWS, indent=1)), ("rows.json", ARRAY), ("rows.json", LINES),
        ("rows.JSON", f" {ARRAY}\n"), ("rows.ndjson", LINES), ("rows.csv", table(ROWS)), ("rows.csv", table(ROWS, ";")),
        ("rows.tsv", table(ROWS, "\t")),
    ],
)  # fmt: skip
def test_the_same_rows_however_they_are_saved(tmp_path, encoding, name, text):
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert [{key: row[key] for key in ROWS[0]} for row in load_records(tmp_path / name).to_list()] == ROWS


def test_an_array_larger_than_what_is_read_at_once(tmp_path):
    rows = [{**ROWS[0], "answer": "x" * 1000, "note": number} for number in range(500)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert [raw["note"] for _, raw in read(tmp_path / "rows.json")] == list(range(500))


def test_numbers_and_gaps_of_a_parquet_file(tmp_path):
    rows = [{**ROWS[0], "subject_id": 77}, {**ROWS[1], "subject_id": None}]
    for kind in (pyarrow.int64(), pyarrow.float64()):
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        columns["subject_id"] = pyarrow.array(columns["subject_id"], kind)
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
        assert load_records(tmp_path / "rows.parquet")["subject_id"][:] == ["77", None]


def test_cells_that_are_lists_and_cells_that_are_empty(tmp_path):
    rows = [{**ROWS[0], "perturbed_answer": json.dumps(["a", "b"]), "paraphrased_answer": ""}]
    (tmp_path / "rows.csv").write_text(table(rows))
    (row,) = load_records(tmp_path / "rows.csv").to_list()
    assert (row["perturbed_answer"], row["paraphrased_answer"]) == (["a", "b"], "")


def test_a_cell_that_only_looks_like_a_list_is_text(tmp_path):
    for answer in ("[1, 2]", '["a"]', "[see page 3]", "[[]]", "[]"):
        (tmp_path / "rows.csv").write_text(table([{**ROWS[0], "answer": answer}]))
        assert load_records(tmp_path / "rows.csv")["answer"][:] == [answer]


def test_a_chat_in_a_cell(tmp_path):
    chat = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "There."}]
    (tmp_path / "rows.csv").write_text(table([{"dialogue": json.dumps(chat), "subject_id": "a"}]))
    (row,) = load_records(tmp_path / "rows.csv", columns={"messages": "dialogue"}).to_list()
    assert (row["question"], row["answer"]) == ("Where?", "There.")


def test_a_folder_that_datasets_has_saved(tmp_path):
    from datasets import Dataset

    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert load_records(tmp_path / "saved")["question"][:] == [row["question"] for row in ROWS]


SECRET = "the secret of nobody"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("rows.jsonl", b"", "holds no rows"), ("rows.json", b"[]", "holds no rows"), ("rows.csv", b"", "holds no rows"),
        ("rows.csv", b"question,answer\n", "holds no rows"),
        ("rows.jsonl", LINES.encode("utf-16-le"), "not UTF-8 but UTF-16 without a byte order mark"),
        ("rows.jsonl", LINES.encode("utf-8") + b"\xff\n", "row 21: not UTF-8, save it as UTF-8"),
        ("rows.csv", table(ROWS).replace(" Ünd 京都", "ü").encode("latin-1"), "row 1: not UTF-8"),
        ("rows.jsonl", gzip.compress(LINES.encode()), "is gzip, not text"), ("rows.csv", b"PK\3\4" * 9, "is zip"),
        ("rows.json", ARRAY[:-1].encode(), "row 21: the array ends too early"),
        ("rows.json", (ARRAY + "{}").encode(), "something follows the array of 20 rows"),
        ("rows.json", b'[{"question": "a"} {"question": NaN}]', "row 2: not a JSON object: NaN"),
        ("rows.json", b"[" * 100_000, "row 1: not a JSON object"),
        ("rows.jsonl", b'{"a":' * 100_000, "row 1: not a JSON object"),
        ("rows.json", json.dumps([{"question": "x" * (1 << 21)}]).encode(), "row 1: longer than"),
        ("rows.csv", f"question,answer,question\na,{SECRET},c\n".encode(), "a column's name is given twice"),
        ("rows.csv", f"question,answer\na,{SECRET},c\n".encode(), "row 1: 3 cells under 2 names"),
        ("rows.csv", f'question,answer\na,"{SECRET}\n'.encode(), "row 1: not CSV"),
        ("rows.parquet", SECRET.encode(), "not a readable Parquet file"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_and_not_quoted(tmp_path, name, content, why):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as refused:
        list(read(tmp_path / name))
    assert f"{name}: {why}" in str(refused.value)
    assert SECRET not in str(refused.value)


def test_of_what_comes_from_the_hub_nothing_is_kept(monkeypatch):
    """Neither where `datasets` is told to keep what it makes, nor where the hub's client keeps files."""
    places, before = [], constants.HF_HUB_CACHE

    def load(name, config, *, split, cache_dir, keep_in_memory):
        folder = Path(constants.HF_HUB_CACHE) / "datasets--a--b"
        for file, text in (("refs/main", "1" * 40), (f"snapshots/{'1' * 40}/rows.jsonl", "{}")):
            (folder / file).parent.mkdir(parents=True)
            (folder / file).write_text(text)
        got = hf_hub_download("a/b", "rows.jsonl", repo_type="dataset", local_files_only=True)
        places.extend([Path(got), Path(cache_dir)])
        return []

    monkeypatch.setattr("datasets.load_dataset", load)
    hub("a/b")
    got, cache = places
    assert got.is_relative_to(cache)
    assert not cache.exists()
    assert before == constants.HF_HUB_CACHE
