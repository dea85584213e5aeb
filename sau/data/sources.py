"""Data sets into `data/`: the demo people, TOFU, or a user's own, sharded by subject."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from sau.config import Section
from sau.data.demo import demo_data
from sau.data.people import Naming, people_of, published
from sau.data.records import Row, open_records
from sau.data.shapes import NAMES, WINDOW_BYTES
from sau.data.shards import width, write_parts
from sau.data.tofu import is_tofu, load_tofu
from sau.errors import DataError

DEMO = "demo"
_TOFU_HOLDOUT = 800
_MOST_PEOPLE = 48


class DataOptions(Section):
    """How a source is read.

    Attributes:
        forget, num_retain: see `load_tofu`.
        num_holdout: rows that no model is trained on, at least; null: of TOFU 40 authors, of a user's data 48 people,
            but no more than a quarter of them. Half of these people judge; `standard` asks for 20 who do.
        subject_column: the column that names the person.
        columns: a source's names of columns by ours, such as {question: frage}.
        window_bytes: answers and texts that are longer, in UTF-8, become several records.
        holdout: a source of rows that no model was trained on; null: some of the data's people are kept out.
    """

    forget: str = "forget01"
    num_retain: int = 100
    num_holdout: int | None = None
    subject_column: str = "subject_id"
    holdout: str | None = None
    columns: dict[str, str] = Field({})
    window_bytes: int = Field(WINDOW_BYTES, ge=100, le=100_000)

    @field_validator("columns")
    @classmethod
    def _known(cls, columns: dict[str, str]) -> dict[str, str]:
        if odd := sorted({*columns} - NAMES):
            raise ValueError(f"{odd[0]!r}: has to be one of {', '.join(sorted(NAMES))}")
        return columns

    @property
    def how(self) -> dict[str, Any]:
        """As `open_records` takes it."""
        return self.model_dump(include={"subject_column", "columns", "window_bytes"})


def is_published(source: str) -> bool:
    """Whether its people are invented and their ids known to everybody: the demo's and TOFU's."""
    return source == DEMO or is_tofu(source)


@dataclass(frozen=True)
class Source:
    """Rows with ids as given, gone through as often as asked, never all in memory where they are a user's.

    Attributes:
        rows: each with its part: `train`, or `holdout`, which no model is trained on.
        people: everybody's id, in the order of the rows.
    """

    rows: Callable[[], Iterable[tuple[str, Row]]]
    people: list[str]

    def part(self, name: str) -> Iterator[Row]:
        """The rows of a part."""
        return (row for part, row in self.rows() if part == name)


def write_data(source: str, folder: Path, options: DataOptions, naming: Naming = published) -> dict[str, str]:
    """Fill `folder/train` and `folder/holdout` from a source: `demo`, or one that `open_source` takes.

    Args:
        naming: gives people their internal ids; for a published data set always `sau.data.people.published`.

    Returns:
        Everybody's internal id by the given one.

    Raises:
        DataError: unreadable, malformed, or too few subjects.
    """
    opened = open_source(source, options)
    ids = dict(naming(opened.people))
    write_parts(opened.rows(), folder, ids, width(len(ids)))
    return ids


def read_data(source: str, options: DataOptions) -> tuple[list[Row], list[Row]]:
    """A source's rows as (train, holdout), see `open_source`."""
    opened = open_source(source, options)
    return list(opened.part("train")), list(opened.part("holdout"))


def open_source(source: str, options: DataOptions) -> Source:
    """A source's rows, split into train and holdout; a user's are gone through once to find its people and faults.

    Args:
        source: `demo`; TOFU's folder or hub name; a folder with `train` and `holdout` below it; or any source that
            `load_records` takes, whose last subjects, at least `num_holdout` rows of them, become the holdout. Who
            shares a row with somebody is not held out.

    Raises:
        DataError: unreadable, malformed, or too few subjects.
    """
    if options.holdout is not None:
        return _split(source, *(open_records(part, **options.how) for part in (source, options.holdout)))
    if source == DEMO:
        return _in_memory(source, *demo_data())
    if is_tofu(source):
        num_holdout = _TOFU_HOLDOUT if options.num_holdout is None else options.num_holdout
        return _in_memory(
            source,
            *load_tofu(source, forget=options.forget, num_retain=options.num_retain, num_holdout=num_holdout),
        )
    if (Path(source) / "train").is_dir() and (Path(source) / "holdout").is_dir():
        train, holdout = (open_records(Path(source) / part, **options.how) for part in ("train", "holdout"))
        return _split(source, train, holdout)
    rows = open_records(source, **options.how)
    people, unseen = _held_out(source, rows(), options)
    return Source(lambda: (("holdout" if row["subject_id"] in unseen else "train", row) for row in rows()), people)


def _in_memory(source: str, train: Sequence[Row], holdout: Sequence[Row]) -> Source:
    return _split(source, lambda: train, lambda: holdout)


def _split(source: str, train: Callable[[], Iterable[Row]], holdout: Callable[[], Iterable[Row]]) -> Source:
    """The two sides as a source.

    Raises:
        DataError: somebody is on both, or a row of the holdout is about nobody.
    """
    sides: list[dict[str, None]] = []
    for rows in (train, holdout):
        sides.append({person: None for row in rows() for person in people_of(row)})
    if both := len(sides[0].keys() & sides[1].keys()):
        raise DataError(f"{source}: {both} subjects are in train and in holdout")
    if nobody := sum(row["subject_id"] is None for row in holdout()):
        raise DataError(f"{source}: {nobody} rows of the holdout are about nobody, it needs people")
    return Source(
        lambda: ((part, row) for part, rows in (("train", train), ("holdout", holdout)) for row in rows()),
        list(sides[0] | sides[1]),
    )


def _held_out(source: str, rows: Iterable[Row], options: DataOptions) -> tuple[list[str], set[str]]:
    """A user's people, and who of them is held out: the last ones who share no row with anybody."""
    counts: dict[str, int] = {}
    shared: set[str] = set()
    for row in rows:
        people = people_of(row)
        for person in people:
            counts[person] = counts.get(person, 0) + 1
        if len(people) > 1:
            shared.update(people)
    alone = [person for person in counts if person not in shared]
    unseen: set[str] = set()
    if options.num_holdout is None:
        unseen.update(alone[-max(1, min(_MOST_PEOPLE, len(counts) // 4)) :])
    else:
        num_rows = 0
        while alone and num_rows < options.num_holdout:
            num_rows += counts[alone[-1]]
            unseen.add(alone.pop())
    if not unseen:
        raise DataError(f"{source}: nobody can be held out, all {len(counts)} subjects share rows with others")
    if len(counts) - len(unseen) < 2:
        raise DataError(
            f"{source}: {len(counts) - len(unseen)} subjects are left to train on beside a holdout of "
            f"{sum(counts[person] for person in unseen)} rows, at least 2 are needed"
        )
    return list(counts), unseen
