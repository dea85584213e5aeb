"""A request's snapshot: which rows are to forget, to keep and held out, named by record, and read again by name."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from sau.data.records import Row, as_dataset, load_records
from sau.data.sets import Sets, halves, spared
from sau.data.shards import find_records, sampled_rows
from sau.data.vault import forget_rows
from sau.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

DATA, FORGET, EARLIER, ARTIFACTS = map(Path, ("data", "forget", "earlier", "artifacts"))
SPLIT = ARTIFACTS / "split.json"

Half = Literal["calibrate", "judge"]
"""Of the holdout: what unlearning may see, and what the verdict is read against."""


def take_snapshot(folder: Path, *, spare: float, seed: int) -> dict[str, int]:
    """Name the rows of a request in `SPLIT`, by record; returns how many each part has.

    Args:
        spare: share of the people to keep whom unlearning is not shown, see `sau.data.sets.spared`.

    Raises:
        DataError: a part is empty, or all rows to forget are also to be kept.
    """
    parts = {
        "forget": _forget_rows(folder),
        "retain": as_dataset(sampled_rows(folder / DATA / "train", seed), str(DATA / "train")),
        "holdout": load_records(folder / DATA / "holdout"),
    }
    for part, rows in parts.items():
        if not len(rows):
            raise DataError(f"snapshot: the {part} set is empty")
    retained = {(row["question"], row["answer"]) for row in parts["retain"]}
    overlap = sum((row["question"], row["answer"]) in retained for row in parts["forget"])
    if overlap == len(parts["forget"]):
        raise DataError(f"snapshot: all {overlap} rows to forget are also among the rows to retain")
    (folder / ARTIFACTS).mkdir(exist_ok=True)
    sides = halves(parts.pop("holdout").to_list(), seed)
    split = {part: sorted(rows["record_id"]) for part, rows in parts.items()}
    split |= {side: sorted(row["record_id"] for row in rows) for side, rows in zip(get_args(Half), sides, strict=True)}
    counted = {f"num_{part}": len(records) for part, records in split.items()}
    retain, forget = (parts[part].to_list() for part in ("retain", "forget"))
    split["spared"] = sorted(spared(retain, forget, spare, seed))
    (folder / SPLIT).write_text(json.dumps(split, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return counted | {"num_overlap": overlap, "num_people_spared": len(split["spared"])}


def read_split(folder: Path, holdout: Half) -> Sets:
    """The rows that the snapshot named, in its order, with one half of the holdout. What calibrates is not shown the
    people to keep who are spared, and is shown who was forgotten earlier.

    Raises:
        DataError: a named record is not in the data.
    """
    named = json.loads((folder / SPLIT).read_text(encoding="utf-8"))
    rows: list[list[Row]] = []
    for part, source in (("forget", FORGET), ("retain", DATA / "train"), (holdout, DATA / "holdout")):
        by_id = find_records(folder / source, named[part]) if part == "retain" else {}
        if len(by_id) < len(named[part]):
            found = _forget_rows(folder) if source == FORGET else load_records(folder / source)
            by_id = {row["record_id"]: row for row in found.to_list()}
        if missing := [record for record in named[part] if record not in by_id]:
            raise DataError(f"{SPLIT}: {len(missing)} records of {part} are not in {source}")
        rows.append([by_id[record] for record in named[part]])
    (forget, retain, strangers), unseen = rows, frozenset(named.get("spared", ()))
    if holdout == "judge":
        return Sets(forget, retain, strangers, unseen)
    shown = [row for row in retain if row["subject_id"] not in unseen]
    return Sets(forget, shown, strangers, earlier=forget_rows(folder / EARLIER) or [])


def _forget_rows(folder: Path) -> "Dataset":
    """The rows to forget: from sealed files (see `sau.data.vault`), else from any that `load_records` reads."""
    sealed = forget_rows(folder / FORGET)
    return load_records(folder / FORGET) if sealed is None else as_dataset(sealed, str(FORGET))
