"""TOFU (arXiv 2401.06121) as this project's train and holdout rows.

The real data set: 200 invented authors, 20 rows each. It is read from a folder that holds
`forget10.jsonl`, `retain90.jsonl` and `retain_perturbed.jsonl`, or from the hub by name.
"""

from itertools import islice
from pathlib import Path

from sau.data.records import Row, load_records
from sau.errors import DataError

FORGET_ROWS = {"forget01": 40, "forget05": 200, "forget10": 400}
_HUB = {"forget10": "forget10_perturbed", "retain90": "retain90", "retain_perturbed": "retain_perturbed"}


def is_tofu(source: str) -> bool:
    """True where `source` is a folder with TOFU's files, or TOFU's name on the hub."""
    return source.partition(":")[0].endswith("/TOFU") or (Path(source) / "retain90.jsonl").is_file()


def load_tofu(
    source: str, *, forget: str = "forget01", num_retain: int = 100, num_holdout: int = 100
) -> tuple[list[Row], list[Row]]:
    """TOFU rows as (train, holdout): the forget authors and the first retain authors; the retain authors after them.

    Retain rows that TOFU published false answers for carry them, matched by question.

    Args:
        source: a folder with TOFU's files or `locuslab/TOFU`.
        forget: forget01, forget05 or forget10: the first 2, 10 or 20 authors.
        num_retain: retain rows to train on, in steps of one author (20 rows).
        num_holdout: rows never trained on, in steps of one author, those that follow in retain90.

    Raises:
        DataError: an unknown split, too many rows asked for, or unreadable files.
    """
    if forget not in FORGET_ROWS:
        raise DataError(f"TOFU split {forget!r}: has to be one of {', '.join(FORGET_ROWS)}")
    if num_retain % 20 or num_holdout % 20 or num_retain < 20 or num_holdout < 20:
        raise DataError(f"TOFU: num_retain {num_retain}, num_holdout {num_holdout}: multiples of 20, at least 20")
    forget_rows = list(islice(_part(source, "forget10"), FORGET_ROWS[forget]))
    retain = list(_part(source, "retain90"))
    if num_retain + num_holdout > len(retain):
        raise DataError(f"TOFU: num_retain + num_holdout is {num_retain + num_holdout}, at most {len(retain)} rows")
    perturbed = {row["question"]: row for row in _part(source, "retain_perturbed", subject="retain-perturbed")}
    for row in retain:
        if published := perturbed.get(row["question"]):
            for column in ("paraphrased_question", "paraphrased_answer", "perturbed_answer"):
                row[column] = published[column]
    return forget_rows + retain[:num_retain], retain[num_retain : num_retain + num_holdout]


def _part(source: str, part: str, subject: str | None = None) -> list[Row]:
    path = Path(source) / f"{part}.jsonl"
    if path.parent.is_dir():
        return load_records(path, subject=subject).to_list()
    return load_records(f"{source}:{_HUB[part]}", subject=subject).to_list()
