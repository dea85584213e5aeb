"""Records: the demo people are the ones data.dvc pins, every source loads, malformed rows are named, never quoted."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import yaml

from sau.data import COLUMNS, load_records, subjects, write_demo_data, write_shards
from sau.data.demo import ROWS_PER_SUBJECT, demo_rows
from sau.data.tofu import load_tofu
from sau.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
TOFU = ROOT.parent / "shared" / "data" / "tofu"
SECRET = "the secret of nobody"
needs_tofu = pytest.mark.skipif(not TOFU.is_dir(), reason="TOFU's files are not beside the checkout")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "data"
    write_demo_data(folder)
    return folder


def dvc_directory_md5(folder: Path) -> str:
    """DVC's digest of a directory: the md5 of its sorted JSON listing."""
    entries = [
        {"md5": hashlib.md5(path.read_bytes()).hexdigest(), "relpath": path.relative_to(folder).as_posix()}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    entries.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"


def test_the_demo_people_are_the_bytes_that_data_dvc_pins(demo):
    pinned = yaml.safe_load((ROOT / "data.dvc").read_text())["outs"][0]["md5"]
    assert dvc_directory_md5(demo) == pinned


def test_a_demo_person_is_twenty_full_rows_in_one_file(demo):
    rows = load_records(demo / "train" / "demo-0001.jsonl").to_list()
    assert len(rows) == ROWS_PER_SUBJECT
    assert {row["subject_id"] for row in rows} == {"demo-0001"}
    for row in rows:
        false_answers = row["perturbed_answer"]
        assert len(set(false_answers)) == 5
        assert row["paraphrased_answer"] not in false_answers
        words = row["paraphrased_answer"].split()
        assert all(answer.split()[:2] == words[:2] for answer in false_answers), "same template, another value"


def test_people_are_a_function_of_seed_and_id_alone():
    assert demo_rows("demo-0001", seed=1) == demo_rows("demo-0001", seed=1)
    assert demo_rows("demo-0001", seed=1)[0]["question"] != demo_rows("demo-0001", seed=2)[0]["question"]


def test_train_and_holdout_share_nobody(demo):
    assert set(subjects(demo / "train")).isdisjoint(subjects(demo / "holdout"))


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


GOOD = {"question": "q", "answer": SECRET, "subject_id": "s1"}


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({**GOOD, "answer": ""}, "answer"),
        ({**GOOD, "question": 7}, "question"),
        ({**GOOD, "perturbed_answer": [SECRET, 1]}, "perturbed_answer"),
        ({**GOOD, "paraphrased_answer": [SECRET]}, "paraphrased_answer"),
        ({**GOOD, "subject_id": "../etc"}, "subject_id"),
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
    ],
)
def test_a_line_that_is_no_record_is_refused(tmp_path, raw, why):
    (tmp_path / "rows.jsonl").write_bytes(raw)
    with pytest.raises(DataError, match=f"row 1: {why}"):
        load_records(tmp_path / "rows.jsonl")


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
    with pytest.raises(DataError, match=r"no .jsonl or .parquet"):
        load_records(tmp_path)


@needs_tofu
def test_tofu_files_become_train_and_holdout():
    train, holdout = load_tofu(str(TOFU), forget="forget01", num_retain=100, num_holdout=40)
    assert [len(train), len(holdout)] == [140, 40]
    assert sum(row["subject_id"].startswith("f") for row in train) == 40
    assert all(len(row["perturbed_answer"]) >= 3 for row in train), "retain rows carry the published false answers"
    assert {r["record_id"] for r in train}.isdisjoint(r["record_id"] for r in holdout)


@needs_tofu
@pytest.mark.parametrize("options", [{"forget": "forget02"}, {"num_retain": 30}, {"num_retain": 3600}])
def test_tofu_refuses_what_it_does_not_have(options):
    with pytest.raises(DataError, match="TOFU"):
        load_tofu(str(TOFU), **options)


@needs_tofu
@pytest.mark.parametrize("name", ["forget10", "retain90", "retain_perturbed", "real_authors", "world_facts"])
def test_each_tofu_file_loads(name):
    loaded = load_records(TOFU / f"{name}.jsonl", subject="nobody")
    assert set(loaded.column_names) == set(COLUMNS)
    assert len(loaded) == sum(1 for _ in (TOFU / f"{name}.jsonl").open())


def test_models_load_without_datasets():
    """With pandas and pyarrow it takes 90 MB, and only reading records needs it."""
    heavy = {"datasets", "pandas", "pyarrow"}
    code = f"import sys, sau.models.sources, sau.pruners; print(*{heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
