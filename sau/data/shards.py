"""The data folder's files: one for each person, or for a few people where there are many.

A shard's name is what the internal ids of the people in it begin with: the whole id where a person has a file of their
own (up to 1,024 people), else its first digits, as many as leave some 4 to 64 people in a file. So whose rows are where
is known from names alone, and taking a person out rewrites one small file: all other DVC objects stay what they are.

Rows about nobody lie in `nobody-00000.jsonl` and so on. A row about several people has a copy in the shard of each of
them, so that it is found from any; where the folder is read, the copy of the first counts.
"""

import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sau.data.people import INTERNAL, people_of
from sau.data.records import COPY, Row, as_line, load_records, open_records, stored

NOBODY = "nobody"
_OWN_FILE = 1024
_MOST_TOGETHER = 64
_NOBODY_TOGETHER = 1024
_BEGINNING = re.compile(r"[0-9a-f]{1,8}\Z")
ALL_BYTES, SAMPLE_ROWS = 1 << 24, 20_000
"""Of the rows to keep all are read up to so many bytes, some 40,000 rows; of more, so many rows: an attempt costs the
same however large the data set is, and shows unlearning no more rows than that anyway."""
_BUFFER = 1 << 25
"""Characters of rows that wait to be written."""


def width(num_people: int) -> int:
    """How many digits of an internal id name the shard of one of so many people."""
    if num_people <= _OWN_FILE:
        return 32
    digits = 1
    while num_people > _MOST_TOGETHER * 16**digits:
        digits += 1
    return digits


def write_people(rows: Iterable[Row], folder: Path, ids: Mapping[str, str], digits: int) -> None:
    """Write rows with internal ids for people and records; the bytes are fixed by rows, ids and digits.

    Args:
        rows: gone through once; `folder` is filled as they come, with little of them in memory.
        ids: each person's internal id by the one in the rows.
        digits: of internal ids in shards' names, see `width`.
    """
    write_parts((("", row) for row in rows), folder, ids, digits)


def write_parts(rows: Iterable[tuple[str, Row]], folder: Path, ids: Mapping[str, str], digits: int) -> None:
    """As `write_people`, of rows that each come with the part of `folder` they belong to; nobody is in two parts."""
    counts: dict[str | None, int] = {}
    files = _Files(folder)
    for part, row in rows:
        people = list(dict.fromkeys(ids[one] for one in people_of(row)))
        first = people[0] if people else None
        number = counts.get(first, 0)
        counts[first] = number + 1
        inside = {**row, "record_id": f"{first or NOBODY}-{number:05d}", "subject_id": first}
        inside["subject_ids"] = people if len(people) > 1 else []
        if first is None:
            files.add(part, f"{NOBODY}-{number // _NOBODY_TOGETHER:05d}", stored(inside))
        for place in dict.fromkeys(one[:digits] for one in people):
            files.add(part, place, stored(inside) | ({} if first and first.startswith(place) else {COPY: True}))
    files.flush()


class _Files:
    """Lines on their way into the shards of a folder; a shard that was there before is replaced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: dict[tuple[str, str], list[str]] = {}
        self._begun: set[tuple[str, str]] = set()
        self._size = 0

    def add(self, part: str, shard: str, row: Mapping[str, Any]) -> None:
        line = as_line(row)
        self._waiting.setdefault((part, shard), []).append(line)
        self._size += len(line)
        if self._size > _BUFFER:
            self.flush()

    def flush(self) -> None:
        for part in {part for part, _ in self._waiting}:
            (self._folder / part).mkdir(parents=True, exist_ok=True)
        for key, lines in self._waiting.items():
            path = self._folder / key[0] / f"{key[1]}.jsonl"
            with path.open("a" if key in self._begun else "w", encoding="utf-8") as file:
                file.writelines(lines)
        self._begun |= self._waiting.keys()
        self._waiting, self._size = {}, 0


def sampled_rows(folder: Path, seed: int) -> list[Row]:
    """The rows of a folder of shards; where there are too many, those of a seeded choice of shards, in their order."""
    shards = sorted(folder.rglob("*.jsonl"))
    if sum(shard.stat().st_size for shard in shards) <= ALL_BYTES:
        return load_records(folder).to_list()
    chosen: dict[Path, list[Row]] = {}
    num = 0
    for shard in random.Random(seed).sample(shards, len(shards)):
        chosen[shard] = [row for row in _rows(shard) if _is_home(row, shard)]
        num += len(chosen[shard])
        if num >= SAMPLE_ROWS:
            break
    return [row for shard in sorted(chosen) for row in chosen[shard]]


def _is_home(row: Row, shard: Path) -> bool:
    """Whether a row is not one of the copies that rows about several people have."""
    return row["subject_id"] is None or row["subject_id"].startswith(shard.stem)


def shard_names(person: str) -> list[str]:
    """The names that the shard with a person's rows may have, below `train/` or `holdout/`."""
    digits = range(len(person) - 1, 0, -1) if INTERNAL.match(person) else ()
    return [f"{name}.jsonl" for name in (person, *(person[:n] for n in digits))]


def has_own_shard(person: str) -> bool:
    """Whether a shard named like this person is theirs alone: short names in hex digits are of several people."""
    return bool(INTERNAL.match(person)) or not _BEGINNING.match(person)


def rows_of(folder: Path, person: str) -> list[Row]:
    """A person's rows below `train/` or `holdout/`, those about others, too; empty where there are none."""
    shard = _shard_of(folder, person)
    return [] if shard is None else [row for row in _rows(shard) if person in people_of(row)]


def have_internal_ids(folder: Path) -> bool:
    """Whether the people of a data folder have internal ids already, by the first row of each of its files.

    Raises:
        DataError: one that cannot be read.
    """
    people = [next(open_records(path)())["subject_id"] for path in folder.rglob("*.jsonl")]
    return bool(people) and all(person is None or INTERNAL.match(str(person)) for person in people)


def as_of(row: Row, person: str) -> Row:
    """A row as the row of one person alone; two who ask together may have the same row, each by an id of its own."""
    people = people_of(row)
    record = f"{row['record_id']}/{person}" if person in people[1:] else row["record_id"]
    return {**row, "subject_id": person, "subject_ids": [], "record_id": record}


def find_records(folder: Path, record_ids: Iterable[str]) -> dict[str, Row]:
    """Rows below `train/` by record id, as far as they are there."""
    wanted = set(record_ids)
    by_name = {record: _shard_of_record(folder, record) for record in wanted}
    shards = {shard for shard in by_name.values() if shard}
    if None in by_name.values():  # ids of before internal ones say nothing of where they are
        shards.update(folder.glob("*.jsonl"))
    rows = (row for shard in sorted(shards) for row in _rows(shard))
    return {row["record_id"]: row for row in rows if row["record_id"] in wanted}


def take_out(folder: Path, rows: Iterable[Row]) -> None:
    """Remove rows, which are in `folder`, from the shards of everybody they are about."""
    taken: dict[Path, set[str]] = {}
    for row in rows:
        at = [_shard_of_record(folder, row["record_id"]), *(_shard_of(folder, person) for person in people_of(row))]
        for shard in filter(None, at):
            taken.setdefault(shard, set()).add(row["record_id"])
    for shard, records in sorted(taken.items()):
        here = _rows(shard)
        kept = [line for line, row in zip(_lines(shard), here, strict=True) if row["record_id"] not in records]
        shard.unlink()  # before it is written anew: it may be the very file of DVC's cache
        if kept:
            shard.write_text("".join(kept), encoding="utf-8")


def _rows(shard: Path) -> list[Row]:
    return list(open_records(shard)())


def _lines(shard: Path) -> list[str]:
    with shard.open(encoding="utf-8", newline="\n") as file:
        return [line for line in file if line.strip()]


def _shard_of_record(folder: Path, record: str) -> Path | None:
    """The shard that an internal record id names."""
    person, _, number = record.partition("-")
    if person == NOBODY and number.isdigit():
        path = folder / f"{NOBODY}-{int(number) // _NOBODY_TOGETHER:05d}.jsonl"
        return path if path.is_file() else None
    return _shard_of(folder, person) if INTERNAL.match(person) else None


def _shard_of(folder: Path, person: str) -> Path | None:
    return next((path for name in shard_names(person) if (path := folder / name).is_file()), None)
