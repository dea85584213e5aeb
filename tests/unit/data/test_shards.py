"""Shards: who is in which, and what is left when somebody is taken out."""

import hashlib
import json
import re

import pytest

from sau.data import shards
from sau.data.demo import demo_rows
from sau.data.people import drawn
from sau.data.records import load_records
from sau.data.shards import as_of, find_records, have_internal_ids, rows_of, take_out, width, write_people
from sau.errors import DataError

PEOPLE = ["alice", "Alice", "p.a@example.org", "77", "Jörg"]


def rows_about(*people):
    return [{**row, "subject_ids": []} for who in people for row in demo_rows(who, seed=1)[:3]]


def shared(*people):
    return {**demo_rows("/".join(people), seed=1)[0], "subject_id": people[0], "subject_ids": list(people)}


def of_nobody(number):
    return {**demo_rows("nobody", seed=1)[number], "subject_id": None, "subject_ids": []}


@pytest.fixture
def rows():
    return [*rows_about(*PEOPLE), shared("alice", "Jörg"), of_nobody(0), of_nobody(1)]


@pytest.fixture(params=[32, 1], ids=["a file each", "together"])
def written(request, tmp_path, rows):
    ids = drawn(PEOPLE)
    write_people(rows, tmp_path / "train", ids, request.param)
    return tmp_path, ids


def texts(rows):
    return sorted(row["question"] for row in rows)


def test_every_row_is_there_once(written, rows):
    folder, _ = written
    loaded = load_records(folder / "train").to_list()
    assert texts(loaded) == texts(rows)
    assert len({row["record_id"] for row in loaded}) == len(rows)


def test_no_id_as_given_is_in_a_name_or_a_file(written):
    folder, _ = written
    files = list((folder / "train").iterdir())
    content = "".join(path.name + path.read_text(encoding="utf-8") for path in files)
    assert len(files) > 1
    given = {who: rf"{re.escape(json.dumps(who, ensure_ascii=False))}|(?<![0-9a-f]){re.escape(who)}-" for who in PEOPLE}
    assert [who for who, named in given.items() if re.search(named, content)] == []  # a random id may end like one
    assert have_internal_ids(folder / "train")


def test_a_persons_rows_are_found_from_the_id_alone(written, rows):
    folder, ids = written
    for who, internal in ids.items():
        about = [row for row in rows if who in (row["subject_id"], *row["subject_ids"])]
        assert texts(rows_of(folder / "train", internal)) == texts(about)
    assert rows_of(folder / "train", "0" * 32) == []


def test_who_is_taken_out_is_in_no_file_any_more_and_everybody_else_is_whole(written, rows):
    folder, ids = written
    taken = rows_of(folder / "train", ids["Jörg"])
    assert len(taken) == 4
    take_out(folder / "train", taken)
    left = load_records(folder / "train").to_list()
    assert texts(left) == texts(row for row in rows if "Jörg" not in (row["subject_id"], *row["subject_ids"]))
    assert ids["Jörg"] not in "".join(path.read_text(encoding="utf-8") for path in (folder / "train").iterdir())
    assert rows_of(folder / "train", ids["Jörg"]) == []


def test_a_row_about_two_is_a_row_of_each_with_an_id_of_its_own(written):
    folder, ids = written
    alone = [as_of(row, ids[who]) for who in ("alice", "Jörg") for row in rows_of(folder / "train", ids[who])]
    assert len(alone) == 8
    assert len({row["record_id"] for row in alone}) == 8
    assert {row["subject_id"] for row in alone} == {ids["alice"], ids["Jörg"]}
    assert not any(row["subject_ids"] for row in alone)


def test_single_rows_are_found_by_record_id_and_taken_out(written, rows):
    folder, _ = written
    loaded = load_records(folder / "train").to_list()
    for row in loaded:
        record = row["record_id"]
        assert list(find_records(folder / "train", [record, "none", "0" * 32 + "-00001"])) == [record]
    nobody = [row for row in loaded if row["subject_id"] is None]
    take_out(folder / "train", nobody[:1])
    assert len(load_records(folder / "train")) == len(rows) - 1


def test_the_others_files_keep_their_bytes_and_a_cache_is_not_written_through(written):
    folder, ids = written
    (folder / "cache").mkdir()
    for path in (folder / "train").iterdir():
        (folder / "cache" / path.name).hardlink_to(path)
    before = {path.name: path.read_bytes() for path in (folder / "cache").iterdir()}
    take_out(folder / "train", rows_of(folder / "train", ids["77"]))
    after = {path.name: path.read_bytes() for path in (folder / "train").iterdir()}
    changed = {name for name in before if after.get(name) != before[name]}
    assert len(changed) == 1
    assert ids["77"].startswith(changed.pop().removesuffix(".jsonl"))
    assert before == {path.name: path.read_bytes() for path in (folder / "cache").iterdir()}


def test_the_same_rows_and_ids_are_the_same_bytes(tmp_path, rows):
    ids = drawn(PEOPLE)
    for name in ("one", "other"):
        write_people(iter(rows), tmp_path / name, ids, 2)
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "other")]
    assert files[0] == files[1]


@pytest.mark.parametrize(("people", "digits"), [(1, 32), (1024, 32), (1025, 2), (100_000, 3), (1_000_000, 4)])
def test_shards_hold_few_people_however_many_there_are(people, digits):
    assert width(people) == digits


@pytest.mark.parametrize("written_over", [b"", b"\xff", b"{", b"[]\n", b'{"subject_id": "Mallory Quux"}\n'])
@pytest.mark.parametrize("read", [load_records, have_internal_ids, lambda data: rows_of(data / "train", "a" * 32)])
def test_a_damaged_shard_is_named_by_its_bytes_and_the_way_out_is_said(tmp_path, written_over, read):
    """Not by its file's name, which is somebody's."""
    shard = tmp_path / "data" / "train" / f"{'a' * 32}.jsonl"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(written_over)
    with pytest.raises(DataError) as error:
        read(tmp_path / "data")
    said = str(error.value)
    assert said.startswith(f"data/train: the file whose MD5 is {hashlib.md5(written_over).hexdigest()}: ")
    assert "`sau doctor --line LINE`" in said
    assert "`dvc pull`" in said
    assert [word for word in ("aaaa", "Mallory", str(tmp_path), "\n") if word in said] == []


def test_shards_of_before_internal_ids_are_read_and_taken_out_of(tmp_path):
    (tmp_path / "train").mkdir()
    for who in ("customer-7", "customer-8"):
        lines = "".join(json.dumps(row) + "\n" for row in demo_rows(who, seed=1))
        (tmp_path / "train" / f"{who}.jsonl").write_text(lines)
    assert not have_internal_ids(tmp_path / "train")
    rows = rows_of(tmp_path / "train", "customer-7")
    assert [row["record_id"] for row in rows] == [row["record_id"] for row in demo_rows("customer-7", seed=1)]
    take_out(tmp_path / "train", rows[1:])
    assert len(rows_of(tmp_path / "train", "customer-7")) == 1
    assert list(find_records(tmp_path / "train", [rows[0]["record_id"]])) == [rows[0]["record_id"]]
    take_out(tmp_path / "train", rows[:1])
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["customer-8.jsonl"]


def test_of_many_rows_a_seeded_choice_of_shards_is_read(written, monkeypatch):
    folder, _ = written
    everything = load_records(folder / "train").to_list()
    assert shards.sampled_rows(folder / "train", 0) == everything
    monkeypatch.setattr(shards, "ALL_BYTES", 0)
    assert texts(shards.sampled_rows(folder / "train", 0)) == texts(everything)
    monkeypatch.setattr(shards, "SAMPLE_ROWS", 4)
    few = shards.sampled_rows(folder / "train", 0)
    assert 4 <= len(few) < len(everything)
    assert few == shards.sampled_rows(folder / "train", 0)
    assert few == [row for row in everything if row["record_id"] in {row["record_id"] for row in few}]


def test_the_name_of_a_shard_of_several_people_is_nobodys_id(tmp_path, rows):
    ids = drawn(PEOPLE)
    write_people(rows, tmp_path / "train", ids, 1)
    name = ids["alice"][:1]
    assert (tmp_path / "train" / f"{name}.jsonl").is_file()
    assert rows_of(tmp_path / "train", name) == []
    assert [shards.has_own_shard(who) for who in (name, "3fa", ids["alice"], "customer-7")] == [
        False,
        False,
        True,
        True,
    ]
