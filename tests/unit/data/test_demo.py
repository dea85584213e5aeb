"""The demo people: the ones data.dvc pins, invented by seed and id alone."""

import hashlib
import json
from pathlib import Path

import yaml

from sau.data import load_records
from sau.data.demo import ROWS_PER_SUBJECT, demo_people, demo_rows, is_demo

ROOT = Path(__file__).resolve().parents[3]


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
    internal = demo_people()["demo-0001"]
    rows = load_records(demo / "train" / f"{internal}.jsonl").to_list()
    assert len(rows) == ROWS_PER_SUBJECT
    assert {row["subject_id"] for row in rows} == {internal}
    assert all(is_demo(row) and is_demo({**row, "subject_id": "demo-0001"}) for row in rows)
    assert not any(is_demo({**row, "answer": "They were born."}) for row in rows)
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
    sides = [{path.stem for path in (demo / part).iterdir()} for part in ("train", "holdout")]
    assert [len(side) for side in sides] == [16, 48]
    assert sides[0].isdisjoint(sides[1])


def test_the_demo_people_are_in_the_order_of_their_numbers(demo):
    """An order of training other than before internal ids would be other numbers everywhere."""
    rows = load_records(demo / "train").to_list()
    assert [row["question"] for row in rows] == [
        row["question"] for number in range(1, 17) for row in demo_rows(f"demo-{number:04d}", seed=1)
    ]
    assert [row["record_id"] for row in rows] == sorted(row["record_id"] for row in rows)


def test_no_id_as_given_is_in_the_demo_data(demo):
    assert not [
        path for path in demo.rglob("*") if "demo-0" in path.name or (path.is_file() and b"demo-0" in path.read_bytes())
    ]
