"""Question-answer records: one schema for every source, loaded with `datasets`.

A record is a row with TOFU's columns (arXiv 2401.06121) plus who it is about:

    record_id             unique within the data set
    subject_id            the person the row is about; the unit a forget request names
    question, answer      what the model is trained on
    paraphrased_question, paraphrased_answer   the same fact in other words ("" where absent)
    perturbed_answer      false answers in the same words ([] where absent)

A data folder is sharded by subject, so that one person's bytes are one file and, under DVC, one
object that can be deleted without touching anyone else's:

    data/train/<subject_id>.jsonl      rows the model is trained on
    data/holdout/<subject_id>.jsonl    rows no model of this line ever sees (the membership null)
"""

import codecs
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sau.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset  # imported where it is used: with pandas and pyarrow it takes 90 MB

SUBJECT_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")  # `$` would let a newline at the end pass
MAX_LINE_BYTES = 1 << 20

TEXT_COLUMNS = ("record_id", "subject_id", "question", "answer", "paraphrased_question", "paraphrased_answer")
COLUMNS = (*TEXT_COLUMNS, "perturbed_answer")
Row = dict[str, Any]


def load_records(source: str | Path, *, subject_column: str = "subject_id", subject: str | None = None) -> "Dataset":
    """Load records from a file, a data folder or a hub name, held in memory only.

    Args:
        source: a `.jsonl` or `.parquet` file, a folder of them (read recursively, in order of
            name), or a hub data set as `name` or `name:config`, e.g.
            `locuslab/TOFU:forget10_perturbed`.
        subject_column: the column that names the person; `author_id` is taken where it is absent.
            TOFU on the hub has neither: there, 20 rows in a row are one author.
        subject: whom rows are about that name nobody, for files of general knowledge; by default
            such a row is refused.

    Raises:
        DataError: nothing found, or a malformed row: names file, row number and column, never
            the row's text.
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in READERS and p.is_file())
        if not files:
            raise DataError(f"{path}: no .jsonl or .parquet file in this folder")
        rows = [row for file in files for row in _read(file, subject_column, subject)]
    elif path.suffix in READERS:
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        rows = list(_read(path, subject_column, subject))
    elif path.is_file():
        raise DataError(f"{path}: has to end in {' or '.join(READERS)}, as what is in it is")
    else:
        rows = list(_read_hub(str(source), subject_column, subject))
    return as_dataset(rows, str(source))


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
    features = Features({**dict.fromkeys(TEXT_COLUMNS, text), "perturbed_answer": List(text)})
    return Dataset.from_list(rows, features=features)


def write_shards(rows: Iterable[Row], folder: Path) -> list[Path]:
    """Write rows to `folder/<subject_id>.jsonl`, one file per subject, bytes fixed by the rows alone."""
    by_subject: dict[str, list[Row]] = {}
    for row in rows:
        by_subject.setdefault(row["subject_id"], []).append({column: row[column] for column in COLUMNS})
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for subject, rows_here in by_subject.items():
        path = folder / f"{subject}.jsonl"
        lines = [json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows_here]
        path.write_text("".join(lines), encoding="utf-8")
        written.append(path)
    return written


def subjects(folder: Path) -> list[str]:
    """The subject ids of a sharded folder (`data/train` or `data/holdout`), sorted."""
    return sorted(path.stem for path in folder.glob("*.jsonl"))


# -- readers: each yields (row number, raw mapping) ---------------------------------------------


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
            if len(line) > MAX_LINE_BYTES:
                raise DataError(f"{path}: row {number}: longer than {MAX_LINE_BYTES} bytes")
            if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise DataError(f"{path}: not UTF-8 but UTF-16, save it as UTF-8")
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if not line.strip():
                continue
            if line.lstrip().startswith(b"["):
                raise DataError(f"{path}: row {number}: not a JSON object but an array, one object a line is needed")
            try:
                yield (
                    number,
                    json.loads(line.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_without_twins),
                )
            except UnicodeDecodeError:
                raise DataError(f"{path}: row {number}: not UTF-8") from None
            except _OddJsonError as error:
                raise DataError(f"{path}: row {number}: not a JSON object: {error}") from None
            except ValueError:
                raise DataError(f"{path}: row {number}: not a JSON object") from None


class _OddJsonError(ValueError):
    """What Python's parser takes and JSON does not know."""


def _no_constant(name: str) -> None:
    raise _OddJsonError(f"{name} is no JSON value")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _OddJsonError(f"the column {twice} is given twice" if twice in COLUMNS else "a key is given twice")
    return found


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError):
        raise DataError(f"{path}: not a readable Parquet file") from None
    yield from enumerate(rows, 1)


READERS = {".jsonl": _jsonl, ".parquet": _parquet}


def _read(path: Path, subject_column: str, default: str | None) -> Iterator[Row]:
    for number, raw in READERS[path.suffix](path):
        yield _checked(raw, number, path.stem, str(path), subject_column, default)


def _read_hub(source: str, subject_column: str, default: str | None) -> Iterator[Row]:
    from datasets import load_dataset

    name, _, config = source.partition(":")
    # A private cache folder that goes away: the default cache would keep the text for ever.
    with tempfile.TemporaryDirectory(prefix="sau-hub-") as cache:
        try:
            loaded = load_dataset(name, config or None, split="train", cache_dir=cache, keep_in_memory=True)
        except Exception as error:  # the hub client raises some twenty unrelated types
            raise DataError(
                f"{source}: neither a .jsonl or .parquet file, a folder of them, nor a data set that could "
                f"be loaded from the hub ({type(error).__name__})"
            ) from None
        rows = loaded.to_list()
    stem = config or name.rpartition("/")[2]
    for number, raw in enumerate(rows, 1):
        yield _checked(raw, number, stem, source, subject_column, default)


def _checked(raw: Any, number: int, stem: str, where: str, subject_column: str, default: str | None) -> Row:
    """One raw mapping as a record; ids that the source lacks are derived from its name and row number."""

    def refuse(column: str, why: str) -> DataError:
        return DataError(f"{where}: row {number}: column {column}: {why}")

    if not isinstance(raw, Mapping):
        raise DataError(f"{where}: row {number}: not a JSON object")
    row: Row = {}
    for column in ("question", "answer"):
        value = raw.get(column)
        if not isinstance(value, str) or not value.strip():
            raise refuse(column, "missing or empty, a non-empty string is needed")
        row[column] = value
    for column in ("paraphrased_question", "paraphrased_answer"):
        value = raw.get(column)
        if value is not None and not isinstance(value, str):
            raise refuse(column, f"{type(value).__name__}, a string is needed")
        row[column] = value or ""
    false_answers = raw.get("perturbed_answer")
    if false_answers is None:
        false_answers = []
    if not isinstance(false_answers, list) or not all(isinstance(a, str) and a.strip() for a in false_answers):
        raise refuse("perturbed_answer", "a list of non-empty strings is needed")
    row["perturbed_answer"] = false_answers

    subject = raw.get(subject_column, raw.get("author_id"))
    if subject is None:
        subject = default
    if subject is None and where.partition(":")[0].endswith("/TOFU"):
        subject = f"{stem}-{(number - 1) // 20:03d}"
    if not isinstance(subject, str) or not SUBJECT_ID.match(subject):
        raise refuse(subject_column, f"missing or malformed, it has to match {SUBJECT_ID.pattern}")
    row["subject_id"] = subject
    record = raw.get("record_id", f"{stem}-{number:05d}")
    if not isinstance(record, str) or not record:
        raise refuse("record_id", "a non-empty string is needed")
    row["record_id"] = record
    return row
