"""Data sets into `data/`: the demo people, TOFU, or a user's own, sharded by subject."""

from pathlib import Path

from sau.config import Section
from sau.data.demo import write_demo_data
from sau.data.records import load_records, write_shards
from sau.data.tofu import is_tofu, load_tofu
from sau.errors import DataError

DEMO = "demo"


class DataOptions(Section):
    """How a source is read.

    Attributes:
        forget, num_retain, num_holdout: see `load_tofu`; of a user's data `num_holdout` rows at least are held out.
        subject_column: the column that names the person.
    """

    forget: str = "forget01"
    num_retain: int = 100
    num_holdout: int = 100
    subject_column: str = "subject_id"


def write_data(source: str, folder: Path, options: DataOptions) -> None:
    """Fill `folder/train` and `folder/holdout` from a source.

    Args:
        source: `demo`; TOFU's folder or hub name; a folder with `train` and `holdout` below it; or any source that
            `load_records` takes, whose last subjects, at least `num_holdout` rows of them, become the holdout.

    Raises:
        DataError: unreadable, malformed, or too few subjects.
    """
    if source == DEMO:
        write_demo_data(folder)
    elif is_tofu(source):
        train, holdout = load_tofu(
            source, forget=options.forget, num_retain=options.num_retain, num_holdout=options.num_holdout
        )
        write_shards(train, folder / "train")
        write_shards(holdout, folder / "holdout")
    elif (Path(source) / "train").is_dir() and (Path(source) / "holdout").is_dir():
        for part in ("train", "holdout"):
            write_shards(
                load_records(Path(source) / part, subject_column=options.subject_column).to_list(), folder / part
            )
    else:
        rows = load_records(source, subject_column=options.subject_column).to_list()
        people = list(dict.fromkeys(row["subject_id"] for row in rows))
        unseen: set[str] = set()
        while people and sum(row["subject_id"] in unseen for row in rows) < options.num_holdout:
            unseen.add(people.pop())
        if len(people) < 2:
            raise DataError(
                f"{source}: {len(people)} subjects are left to train on beside a holdout of {options.num_holdout} "
                "rows, at least 2 are needed"
            )
        write_shards((row for row in rows if row["subject_id"] not in unseen), folder / "train")
        write_shards((row for row in rows if row["subject_id"] in unseen), folder / "holdout")
    trained = {path.stem for path in (folder / "train").glob("*.jsonl")}
    if both := trained & {path.stem for path in (folder / "holdout").glob("*.jsonl")}:
        raise DataError(f"{source}: {len(both)} subjects are in train and in holdout")
