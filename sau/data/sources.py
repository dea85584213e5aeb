"""Data sets into `data/`: the demo people, TOFU, or a user's own, sharded by subject."""

from pathlib import Path

from sau.config import Section
from sau.data.demo import write_demo_data
from sau.data.records import Row, load_records, write_shards
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
    """

    forget: str = "forget01"
    num_retain: int = 100
    num_holdout: int | None = None
    subject_column: str = "subject_id"


def write_data(source: str, folder: Path, options: DataOptions) -> None:
    """Fill `folder/train` and `folder/holdout` from a source: `demo`, or one that `read_data` takes.

    Raises:
        DataError: unreadable, malformed, or too few subjects.
    """
    if source == DEMO:
        write_demo_data(folder)
        return
    for part, rows in zip(("train", "holdout"), read_data(source, options), strict=True):
        write_shards(rows, folder / part)


def read_data(source: str, options: DataOptions) -> tuple[list[Row], list[Row]]:
    """A source's rows as (train, holdout).

    Args:
        source: TOFU's folder or hub name; a folder with `train` and `holdout` below it; or any source that
            `load_records` takes, whose last subjects, at least `num_holdout` rows of them, become the holdout.

    Raises:
        DataError: unreadable, malformed, or too few subjects.
    """
    column = options.subject_column
    if is_tofu(source):
        train, holdout = load_tofu(
            source,
            forget=options.forget,
            num_retain=options.num_retain,
            num_holdout=_TOFU_HOLDOUT if options.num_holdout is None else options.num_holdout,
        )
    elif (Path(source) / "train").is_dir() and (Path(source) / "holdout").is_dir():
        train, holdout = (
            load_records(Path(source) / part, subject_column=column).to_list() for part in ("train", "holdout")
        )
    else:
        rows = load_records(source, subject_column=column).to_list()
        people = list(dict.fromkeys(row["subject_id"] for row in rows))
        unseen: set[str] = set()
        if options.num_holdout is None:
            unseen = set(people[-max(1, min(_MOST_PEOPLE, len(people) // 4)) :])
            people = people[: -len(unseen)]
        else:
            while people and sum(row["subject_id"] in unseen for row in rows) < options.num_holdout:
                unseen.add(people.pop())
        if len(people) < 2:
            raise DataError(
                f"{source}: {len(people)} subjects are left to train on beside a holdout of "
                f"{sum(row['subject_id'] in unseen for row in rows)} rows, at least 2 are needed"
            )
        train = [row for row in rows if row["subject_id"] not in unseen]
        holdout = [row for row in rows if row["subject_id"] in unseen]
    if both := {row["subject_id"] for row in train} & {row["subject_id"] for row in holdout}:
        raise DataError(f"{source}: {len(both)} subjects are in train and in holdout")
    return train, holdout
