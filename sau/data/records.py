"""Question-answer records: one schema for every source, loaded with `datasets`.

A record is a row with TOFU's columns (arXiv 2401.06121) plus who it is about:

    record_id             unique within the data set
    subject_id            the person the row is about, the unit a forget request names; None where it is about nobody
    subject_ids           everybody it is about, where that are several ([] elsewhere); subject_id is the first of them
    question, answer      what the model is trained on: the answer; a plain text has no question ("")
    context               a chat's earlier turns, as role and content ([] elsewhere)
    lead                  of a long answer's windows what stands before them ("" elsewhere)
    paraphrased_question, paraphrased_answer   the same fact in other words ("" where absent)
    perturbed_answer      false answers in the same words ([] where absent)

In a data folder people and records have internal ids (`sau.data.people`) and lie in shards (`sau.data.shards`), so that
one person's bytes can be deleted without touching everybody else's:

    data/train/<internal id>.jsonl      rows the model is trained on
    data/holdout/<internal id>.jsonl    rows no model of this line ever sees (the membership null)
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sau.data.people import canonical
from sau.data.readers import READERS, hub, is_saved, read, readable, saved
from sau.data.shapes import WINDOW_BYTES, Refuse, text_of, turns_of, windows
from sau.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset  # imported where it is used: with pandas and pyarrow it takes 90 MB

TEXT_COLUMNS = ("record_id", "subject_id", "question", "answer", "paraphrased_question", "paraphrased_answer", "lead")
WHERE_FILLED = ("subject_ids", "context", "lead")
"""Columns that a stored row has only where there is something in them."""
COLUMNS = (*TEXT_COLUMNS, "perturbed_answer", "subject_ids", "context")
_ALWAYS = {*COLUMNS} - {*WHERE_FILLED}
_EMPTY: Mapping[str, Any] = {"subject_ids": [], "context": [], "lead": ""}

COPY = "second_copy"
"""Marks a row about several people in all their shards but the first one's; a folder's readers pass over it."""

Row = dict[str, Any]


def load_records(source: str | Path, **how: Any) -> "Dataset":
    """Load records from a file, a data folder or a hub name, held in memory only; see `open_records`.

    Raises:
        DataError: see there; or two rows share a record id.
    """
    return as_dataset(list(open_records(source, **how)()), str(source))


def open_records(
    source: str | Path,
    *,
    subject_column: str = "subject_id",
    subject: str | None = None,
    columns: Mapping[str, str] | None = None,
    window_bytes: int | None = None,
) -> Callable[[], Iterator[Row]]:
    """Records row by row: what is returned goes through the source once more at each call.

    Args:
        source: a file (JSON lines, a JSON array, CSV, Parquet), a folder of them (read recursively, in order of name),
            a folder that `datasets` has saved, or a hub data set as `name`, `name:config` or `name:config:split`, e.g.
            `locuslab/TOFU:forget10_perturbed`. For the shapes of rows see `sau.data.shapes`.
        subject_column: the column that names the person; `author_id` is taken where it is absent.
            TOFU on the hub has neither: there, 20 rows in a row are one author.
        subject: whom rows are about that name nobody, for files of general knowledge; by default a row
            without the column is refused, and one with a null in it is about nobody.
        columns: the source's names of columns by ours.
        window_bytes: answers that are longer, in UTF-8, become several records; by default `WINDOW_BYTES`, and rows
            with all columns of a record stay what they are.

    Raises:
        DataError: nothing found; when it is come to, a malformed row: names file, row number and column, never
            the row's text.
    """
    how = _How(subject_column, subject, dict(columns or {}), window_bytes)
    path = Path(source)
    if path.is_dir() and not is_saved(path):
        files = sorted(p for p in path.rglob("*") if readable(p))
        if not files:
            raise DataError(f"{path}: no file of rows ({', '.join(READERS)}) in this folder")
        return lambda: (row for file in files for row in _of_file(file, how, copies=False))
    if path.is_dir():
        return lambda: _records(enumerate(saved(path), 1), path.name, str(path), how)
    if readable(path):
        return lambda: _of_file(path, how)
    if path.is_file():
        raise DataError(f"{path}: has to end in {' or '.join(READERS)}, as what is in it is")
    if path.suffix.lower() in READERS:
        raise DataError(f"{path}: no such file")
    name, _, config = str(source).partition(":")
    loaded = hub(str(source))
    stem = config.partition(":")[0] or name.rpartition("/")[2]
    return lambda: _records(enumerate(loaded, 1), stem, str(source), how)


def as_dataset(rows: list[Row], name: str) -> "Dataset":
    """Checked rows as an in-memory `datasets.Dataset`; record ids have to be unique.

    Raises:
        DataError: two rows share a record id.
    """
    from datasets import Dataset, Features, List, Value

    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        if row["record_id"] in seen:
            raise DataError(f"{name}: row {number}: column record_id: value occurs twice, ids must be unique")
        seen.add(row["record_id"])
    text = Value("string")
    lists = dict.fromkeys(("perturbed_answer", "subject_ids"), List(text))
    context = {"context": List({"role": text, "content": text})}
    features = Features({**dict.fromkeys(TEXT_COLUMNS, text), **lists, **context})
    return Dataset.from_list([{**_EMPTY, **row} for row in rows], features=features)


def stored(row: Row) -> Row:
    """A row as it lies in a shard."""
    return {column: row[column] for column in COLUMNS if column not in WHERE_FILLED or row.get(column)}


def as_line(row: Mapping[str, Any]) -> str:
    """A row as a line of JSON: its bytes are fixed by the row alone."""
    return json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n"


def write_shards(rows: Iterable[Row], folder: Path) -> list[Path]:
    """Write rows, whose people have internal ids, to `folder/<subject_id>.jsonl`."""
    by_subject: dict[str, list[Row]] = {}
    for row in rows:
        by_subject.setdefault(row["subject_id"], []).append(row)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for subject, rows_here in by_subject.items():
        path = folder / f"{subject}.jsonl"
        path.write_text("".join(as_line(stored(row)) for row in rows_here), encoding="utf-8")
        written.append(path)
    return written


# -- from raw rows to records ---------------------------------------------------------------------


class _How(NamedTuple):
    """How a source's rows are read, see `open_records`."""

    subject_column: str
    subject: str | None
    columns: Mapping[str, str]
    window_bytes: int | None


_SHARD = re.compile(r"[0-9a-f]{1,32}\Z|nobody-\d{5}\Z")


def _of_file(file: Path, how: _How, *, copies: bool = True) -> Iterator[Row]:
    """A file's records. Of a data set's shard, whose name is of the people in it, an error names the bytes instead."""
    try:
        yield from _records(read(file), file.stem, str(file), how, copies=copies)
    except DataError as error:
        if not is_shard(file):
            raise
        with contextlib.suppress(OSError), file.open("rb") as damaged:
            digest = hashlib.file_digest(damaged, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            why = str(error).removeprefix(f"{file}: ")
            raise DataError(
                f"data/{file.parent.name}: the file whose MD5 is {digest}: {why}; it is not as it was taken in: `sau "
                "doctor --line LINE` fetches what a leading version's data has lost, `dvc checkout --force data.dvc` "
                "or `dvc pull` what this checkout's has; where DVC itself has these bytes, take the data in anew"
            ) from None
        raise DataError(f"data/{file.parent.name}: a file of the data set cannot be read") from None


def is_shard(file: Path) -> bool:
    """Whether a file is one of a data set's own, by its place and name."""
    place = file.parent
    return place.name in ("train", "holdout") and place.parent.name == "data" and bool(_SHARD.match(file.stem))


_NONE = object()
"""Stands for a column that is not there, which is another thing than a null."""


def _records(
    raws: Iterable[tuple[int, Any]], stem: str, where: str, how: _How, *, copies: bool = True
) -> Iterator[Row]:
    """Raw rows as records; ids that the source lacks are made of its name and the row's number."""
    for number, raw in raws:

        def refuse(column: str, why: str, number: int = number) -> DataError:
            return DataError(f"{where}: row {number}: column {how.columns.get(column, column)}: {why}")

        if not isinstance(raw, Mapping):
            raise DataError(f"{where}: row {number}: not a JSON object")
        if not copies and raw.get(COPY) is True:
            continue
        if how.columns:
            raw = _renamed(raw, how.columns, refuse)
        people = _people(raw, how, refuse)
        if people is None:
            if not where.partition(":")[0].endswith("/TOFU"):
                raise refuse(how.subject_column, "missing; null is needed where a row is about nobody")
            people = [f"{stem}-{(number - 1) // 20:03d}"]
        record = raw.get("record_id", f"{stem}-{number:05d}")
        if not isinstance(record, str) or not record:
            raise refuse("record_id", "a non-empty string is needed")
        about = {"subject_id": people[0] if people else None, "subject_ids": people if len(people) > 1 else []}
        found = [{**row, **about} for row in _of_one(raw, how, refuse)]
        for part, row in enumerate(found):
            yield {**row, "record_id": f"{record}.{part}" if len(found) > 1 else record}


def _renamed(raw: Mapping[str, Any], columns: Mapping[str, str], refuse: Refuse) -> dict[str, Any]:
    """A raw row with our names for its columns; one that is called like ours and is another gives way."""
    for ours, theirs in columns.items():
        if theirs not in raw:
            raise refuse(ours, "missing")
    return {name: value for name, value in raw.items() if name not in columns.values()} | {
        ours: raw[theirs] for ours, theirs in columns.items()
    }


def _of_one(raw: Mapping[str, Any], how: _How, refuse: Refuse) -> list[Row]:
    """A raw row's records, without ids."""
    other = _other_words(raw, refuse)
    if raw.keys() >= _ALWAYS:  # a record that was stored
        asked = raw["question"] if raw["question"] == "" else text_of(raw["question"], "question", refuse)
        answer = text_of(raw["answer"], "answer", refuse)
        more = {column: raw.get(column) or empty for column, empty in _EMPTY.items()}
        row = {"question": asked, "answer": answer, **other, **more}
        return _windowed(row, how.window_bytes) if how.window_bytes and not more["lead"] else [row]
    turns, window = list(turns_of(raw, refuse)), how.window_bytes or WINDOW_BYTES
    if len(turns) > 1 and any(other.values()):
        raise refuse("paraphrased_answer", "other words are for rows with one answer")
    return [row for turn in turns for row in _windowed({**turn, **other, "lead": ""}, window)]


def _windowed(row: Row, num_bytes: int) -> list[Row]:
    """A row, or where its answer is long one for each window of it, which has no other words."""
    if len(row["answer"].encode()) <= num_bytes:
        return [row]
    parts = windows(row["answer"], num_bytes)
    none = {"paraphrased_question": "", "paraphrased_answer": "", "perturbed_answer": []}
    return [{**row, **none, "lead": lead, "answer": part} for lead, part in parts]


def _other_words(raw: Mapping[str, Any], refuse: Refuse) -> Row:
    row: Row = {}
    for column in ("paraphrased_question", "paraphrased_answer"):
        value = raw.get(column)
        if value is not None and not isinstance(value, str):
            raise refuse(column, f"{type(value).__name__}, a string is needed")
        row[column] = text_of(value, column, refuse) if value and value.strip() else ""
    false_answers = raw.get("perturbed_answer")
    if false_answers is None:
        false_answers = []
    if not isinstance(false_answers, list) or not all(isinstance(a, str) and a.strip() for a in false_answers):
        raise refuse("perturbed_answer", "a list of non-empty strings is needed")
    row["perturbed_answer"] = [text_of(answer, "perturbed_answer", refuse) for answer in false_answers]
    return row


def _people(raw: Mapping[str, Any], how: _How, refuse: Refuse) -> list[str] | None:
    """Whom a row is about, by canonical ids; None where it does not say."""
    people = raw.get("subject_ids")
    if people is not None and not isinstance(people, list):
        raise refuse("subject_ids", "a list of ids is needed")
    named = "subject_ids" if people else how.subject_column
    if not people:
        absent = _NONE if people is None else None  # an empty list says so itself
        subject = raw.get(how.subject_column, raw.get("author_id", absent))
        if subject in (None, _NONE) and how.subject is not None:
            subject = how.subject
        if subject is _NONE:
            return None
        people = [] if subject is None else [subject]
    try:
        return list(dict.fromkeys(map(canonical, people)))
    except DataError as error:
        raise refuse(named, str(error)) from None
