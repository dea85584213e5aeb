"""A user's rows as train and holdout."""

import pytest

from sau.data.demo import demo_rows
from sau.data.records import write_shards
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


def test_too_few_people_are_counted(tmp_path):
    with pytest.raises(DataError, match="1 subjects are left to train on beside a holdout of 20 rows, at least 2"):
        read_data(written(tmp_path, *"ab"), DataOptions(num_holdout=20))


def test_what_is_read_is_written_in_shards(tmp_path):
    write_data(written(tmp_path / "rows", *"abc"), tmp_path / "data", DataOptions(num_holdout=20))
    assert sorted(path.name for path in (tmp_path / "data" / "train").iterdir()) == ["a.jsonl", "b.jsonl"]
    write_data(DEMO, tmp_path / "demo", DataOptions())
    assert len(list((tmp_path / "demo" / "holdout").iterdir())) == 8
