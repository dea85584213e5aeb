"""Files and hub data sets as raw rows, whatever they are saved as; what cannot be read is named for what it is."""

import codecs
import csv
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sau.data.shapes import NAMES
from sau.errors import DataError

MAX_LINE_BYTES = 1 << 20
_CHUNK = 1 << 16
_ROWS = 64
"""Of a Parquet file at a time: each may be of a megabyte that the file says once."""

Numbered = tuple[int, Any]
"""Row number, from 1, and the raw row."""


def readable(path: Path) -> bool:
    """Whether a file holds rows, by the end of its name."""
    return path.suffix.lower() in READERS and path.name not in _DESCRIPTIONS and path.is_file()


def read(path: Path) -> Iterator[Numbered]:
    """The raw rows of one file.

    Raises:
        DataError: names file, row and what it is.
    """
    num = 0
    for num, raw in READERS[path.suffix.lower()](path):
        yield num, raw
    if not num:
        raise DataError(f"{path}: holds no rows")


# -- text: what it is encoded in ------------------------------------------------------------------

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
          (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
_PACKED = (
    (b"\x1f\x8b", "gzip"),
    (b"PK", "zip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"PAR1", "Parquet"),
)


@contextmanager
def _naming(path: Path, number: Callable[[], int]) -> Iterator[None]:
    """Bytes that are no text as a DataError, with the row that was come to."""
    try:
        yield
    except UnicodeDecodeError:
        raise DataError(f"{path}: row {number()}: not UTF-8, save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _encoding(path: Path) -> str:
    """By its byte order mark; UTF-8 without one.

    Raises:
        DataError: what it is instead of text.
    """
    with _naming(path, lambda: 1), path.open("rb") as file:
        head = file.read(64)
    if packed := next((name for magic, name in _PACKED if head.startswith(magic)), None):
        raise DataError(f"{path}: is {packed}, not text")
    if marked := next((name for mark, name in _MARKS if head.startswith(mark)), None):
        return marked
    if b"\0" in head:
        raise DataError(f"{path}: not UTF-8 but UTF-16 without a byte order mark, or no text; save it as UTF-8")
    return "utf-8"


def _lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not empty; of UTF-8 line by line, so that a fault's line is known."""
    number = 0
    if encoding.startswith("utf-8"):
        with _naming(path, lambda: number), path.open("rb") as binary:
            for number, line in enumerate(iter(lambda: binary.readline(MAX_LINE_BYTES + 1), b""), 1):
                yield from _bounded(path, number, line.removeprefix(codecs.BOM_UTF8).decode(), len(line))
        return
    with _naming(path, lambda: number + 1), path.open(encoding=encoding, newline="\n") as file:
        for number, text in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), ""), 1):
            yield from _bounded(path, number, text, len(text))


def _bounded(path: Path, number: int, text: str, length: int) -> Iterator[tuple[int, str]]:
    if length > MAX_LINE_BYTES:
        raise DataError(f"{path}: row {number}: longer than {MAX_LINE_BYTES} bytes")
    if text.strip():
        yield number, text


# -- JSON: an object a line, or an array ----------------------------------------------------------


class _OddJsonError(ValueError):
    """What Python's parser takes and JSON does not know."""


def _no_constant(name: str) -> None:
    raise _OddJsonError(f"{name} is no JSON value")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _OddJsonError(f"the column {twice} is given twice" if twice in NAMES else "a key is given twice")
    return found


_JSON = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_without_twins)


def _json(path: Path) -> Iterator[Numbered]:
    """An object a line, or one array of objects: which of them, the first character says."""
    encoding = _encoding(path)
    with path.open(encoding=encoding, errors="ignore") as file:
        head = file.read(_CHUNK).lstrip()
    yield from _array(path, encoding) if head.startswith("[") else _jsonl(path, encoding)


def _jsonl(path: Path, encoding: str) -> Iterator[Numbered]:
    for number, line in _lines(path, encoding):
        try:
            yield number, _JSON.decode(line)
        except _OddJsonError as error:
            raise DataError(f"{path}: row {number}: not a JSON object: {error}") from None
        except (ValueError, RecursionError):
            why = ""
            if line.strip() == "{":
                why = " but one over several lines; an object a line, or an array of them, is needed"
            raise DataError(f"{path}: row {number}: not a JSON object{why}") from None


def _array(path: Path, encoding: str) -> Iterator[Numbered]:
    """The elements of one array, one after the other, with one of them in memory."""
    number, text, ended = 1, "", False
    with _naming(path, lambda: number), path.open(encoding=encoding) as file:
        text = file.read(_CHUNK).lstrip().removeprefix("[")
        while True:
            text = text.lstrip().removeprefix(",").lstrip() if number > 1 else text.lstrip()
            if text.startswith("]"):
                if (text[1:] + file.read(_CHUNK)).strip():
                    raise DataError(f"{path}: something follows the array of {number - 1} rows")
                return
            try:
                row, end = _JSON.raw_decode(text)
                yield number, row
                number, text = number + 1, text[end:]
                continue
            except _OddJsonError as error:
                raise DataError(f"{path}: row {number}: not a JSON object: {error}") from None
            except RecursionError:
                ended = True
            except ValueError:
                pass  # not all of it has been read yet
            more = "" if ended or len(text) > MAX_LINE_BYTES else file.read(_CHUNK)
            if not more:
                what = f"longer than {MAX_LINE_BYTES} bytes" if len(text) > MAX_LINE_BYTES else "not a JSON object"
                raise DataError(f"{path}: row {number}: {what if text else 'the array ends too early'}")
            text += more


# -- tables ---------------------------------------------------------------------------------------


def _csv(path: Path) -> Iterator[Numbered]:
    """A table with a line of names, see `_cell`."""
    encoding = _encoding(path)
    number = 0
    with _naming(path, lambda: number + 1), path.open(encoding=encoding, newline="") as file:
        head = file.readline(MAX_LINE_BYTES)
        file.seek(0)
        separator = max(",;\t", key=head.count)
        csv.field_size_limit(MAX_LINE_BYTES)
        table = csv.reader(file, delimiter=separator, strict=True)
        try:
            names = [name.strip() for name in next(table, [])]
            if len({*names}) < len(names):
                raise DataError(f"{path}: a column's name is given twice")
            for number, cells in enumerate((cells for cells in table if cells), 1):
                if len(cells) != len(names):
                    raise DataError(f"{path}: row {number}: {len(cells)} cells under {len(names)} names")
                yield number, {name: _cell(name, cell) for name, cell in zip(names, cells, strict=True)}
        except csv.Error as error:
            raise DataError(f"{path}: row {number + 1}: not CSV ({error})") from None


def _cell(name: str, cell: str) -> Any:
    """A cell's text, null where it is empty; a list of messages, or of texts in a column of such, as a list."""
    if cell.startswith("[") and cell.endswith("]"):
        try:
            found = _JSON.decode(cell)
        except (ValueError, RecursionError):
            return cell
        if name in _LISTS or (found and all(isinstance(one, dict) for one in found)):
            return found
    return cell or None


_LISTS = ("perturbed_answer", "subject_ids")


def _parquet(path: Path) -> Iterator[Numbered]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=_ROWS)
            yield from enumerate((raw for batch in batches for raw in batch.to_pylist()), 1)
    except (pyarrow.ArrowException, OSError):
        raise DataError(f"{path}: not a readable Parquet file") from None


READERS: dict[str, Callable[[Path], Iterator[Numbered]]] = {
    ".jsonl": _json, ".ndjson": _json, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet
}  # fmt: skip
_DESCRIPTIONS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
"""What the datasets library writes beside rows."""


# -- the datasets library -------------------------------------------------------------------------


def is_saved(folder: Path) -> bool:
    """Whether a folder is one that `datasets` has saved (`save_to_disk`)."""
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def saved(folder: Path) -> Iterable[Mapping[str, Any]]:
    """The rows of such a folder, mapped into memory."""
    from datasets import load_from_disk

    try:
        found = load_from_disk(str(folder))
    except Exception as error:  # of many unrelated types
        raise DataError(f"{folder}: not a readable saved data set ({type(error).__name__})") from None
    return found


@contextmanager
def _downloads_in(folder: str) -> Iterator[None]:
    """While the block runs, the hub's files are kept in a folder: `datasets` fetches them past its own cache folder."""
    from huggingface_hub import constants

    before = constants.HF_HUB_CACHE
    constants.HF_HUB_CACHE = folder
    try:
        yield
    finally:
        constants.HF_HUB_CACHE = before


def hub(source: str) -> Iterable[Mapping[str, Any]]:
    """The rows of a hub data set, `name`, `name:config` or `name:config:split` (the split is `train` by default)."""
    from datasets import load_dataset

    name, _, rest = source.partition(":")
    config, _, split = rest.partition(":")
    # A private cache folder that goes away: the default caches would keep the text for ever.
    with tempfile.TemporaryDirectory(prefix="sau-hub-") as cache, _downloads_in(f"{cache}/hub"):
        try:
            loaded = load_dataset(name, config or None, split=split or "train", cache_dir=cache, keep_in_memory=True)
        except Exception as error:  # the hub client raises some twenty unrelated types
            raise DataError(
                f"{source}: neither a file ({', '.join(READERS)}), a folder of them, nor a data set that could "
                f"be loaded from the hub ({type(error).__name__})"
            ) from None
    return loaded
