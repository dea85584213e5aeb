"""A user's rows as train and holdout."""

import json

import pytest

from sau.data.demo import demo_rows
from sau.data.people import published
from sau.data.records import load_records, write_shards
from sau.data.sources import DEMO, DataOptions, read_data, write_data
from sau.errors import DataError


def written(folder, *people):
    write_shards([row for who in people for row in demo_rows(who, seed=1)], folder)
    return str(folder)


def subjects(rows):
    return sorted({row["subject_id"] for row in rows})


def test_the_last_subjects_are_held_out_whole(tmp_path):
    train, holdout = read_data(written(tmp_path, *"abcd"), DataOptions(num_holdout=30))
    assert (subjects(train), subjects(holdout)) == (["a", "b"], ["c", "d"])
    assert len(holdout) == 40


def test_a_folder_may_say_itself_who_is_held_out(tmp_path):
    written(tmp_path / "train", "a", "b")
    written(tmp_path / "holdout", "c")
    train, holdout = read_data(str(tmp_path), DataOptions())
    assert (subjects(train), subjects(holdout)) == (["a", "b"], ["c"])


def test_nobody_is_in_both(tmp_path):
    written(tmp_path / "train", "a", "b")
    written(tmp_path / "holdout", "b")
    with pytest.raises(DataError, match="1 subjects are in train and in holdout"):
        read_data(str(tmp_path), DataOptions())


def test_who_shares_a_row_is_not_held_out_and_rows_of_nobody_are_trained_on(tmp_path):
    rows = [row for who in "abcdefgh" for row in demo_rows(who, seed=1)]
    rows[-1] |= {"subject_id": None}
    rows[-2] |= {"subject_id": None, "subject_ids": ["h", "a"]}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, holdout = read_data(str(tmp_path / "rows.jsonl"), DataOptions(num_holdout=40))
    assert subjects(holdout) == ["f", "g"]
    assert (len(train), len(holdout)) == (120, 40)
    assert train[-1]["subject_id"] is None
    assert train[-2]["subject_ids"] == ["h", "a"]


def test_a_holdout_of_nobody_is_refused(tmp_path):
    written(tmp_path / "train", "a", "b")
    written(tmp_path / "holdout", "c")
    (tmp_path / "holdout" / "more.jsonl").write_text(json.dumps({**demo_rows("d", seed=1)[0], "subject_id": None}))
    with pytest.raises(DataError, match="1 rows of the holdout are about nobody"):
        read_data(str(tmp_path), DataOptions())


def test_too_few_people_are_counted(tmp_path):
    with pytest.raises(DataError, match="1 subjects are left to train on beside a holdout of 20 rows, at least 2"):
        read_data(written(tmp_path, *"ab"), DataOptions(num_holdout=20))


def test_what_is_read_is_written_in_shards(tmp_path):
    write_data(written(tmp_path / "rows", *"abc"), tmp_path / "data", DataOptions(num_holdout=20))
    ids = published("abc")
    assert sorted(path.stem for path in (tmp_path / "data" / "train").iterdir()) == [ids["a"], ids["b"]]
    rows = load_records(tmp_path / "data" / "train").to_list()
    assert {row["record_id"][:-6] for row in rows} == {row["subject_id"] for row in rows} == {ids["a"], ids["b"]}
    write_data(DEMO, tmp_path / "demo", DataOptions())
    assert len(list((tmp_path / "demo" / "holdout").iterdir())) == 48


@pytest.mark.parametrize(("people", "held_out"), [(8, 2), (3, 1), (100, 25), (240, 48)])
def test_a_quarter_of_the_people_is_held_out_but_no_more_than_are_needed(tmp_path, people, held_out):
    rows = [{**demo_rows("a", seed=1)[0], "record_id": f"r{n}", "subject_id": f"p{n}"} for n in range(people)]
    write_shards(rows, tmp_path)
    train, holdout = read_data(str(tmp_path), DataOptions())
    assert (len(subjects(train)), len(subjects(holdout))) == (people - held_out, held_out)
