"""The three sets of a request's rows: to forget, to keep, and never trained on."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sau.data.records import Row
from sau.errors import DataError

SETS = ("forget", "retain", "holdout")


@dataclass(frozen=True)
class Sets:
    """Rows by what is asked of them.

    Attributes:
        forget: what the model is to be without.
        retain: what it was trained on beside that, and is to keep.
        holdout: what no model of this line was ever trained on.
        earlier: of people the model has forgotten before, who are to stay so.
        spared: by subject id, the people of `retain` whom unlearning was not shown; empty where nobody knows.
    """

    forget: Sequence[Row]
    retain: Sequence[Row]
    holdout: Sequence[Row] = ()
    spared: frozenset[str] = frozenset()
    earlier: Sequence[Row] = ()

    def __getitem__(self, name: str) -> Sequence[Row]:
        """A set by name."""
        if name not in SETS:
            raise KeyError(name)
        return getattr(self, name)

    def items(self) -> Iterator[tuple[str, Sequence[Row]]]:
        """(name, rows) of each set."""
        return ((name, self[name]) for name in SETS)

    def check_filled(self, what: str) -> None:
        """Refuse an empty set.

        Raises:
            DataError: names it.
        """
        for name, rows in self.items():
            if not len(rows):
                raise DataError(f"{what}: the {name} set is empty")


def by_person(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each person, in the order in which people first appear; rows about nobody one by one."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["record_id"] if row["subject_id"] is None else row["subject_id"], []).append(row)
    return list(found.values())


def numbered(rows: Sequence[Row]) -> list[int]:
    """Per row, whom it is about, as a number: people count from 0 in the order in which they first appear."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(row["subject_id"], len(numbers)) for row in rows]


def spared(retain: Sequence[Row], forget: Sequence[Row], share: float, seed: int) -> frozenset[str]:
    """The ids of a seeded share of the people to keep: unlearning is not shown them, so that what they lose is what
    others lose whom it never saw. Rows about nobody are shown.

    Other people for every request: who is spared pays a little, and must not pay again and again. Somebody is shown.
    """
    asking = sorted({row["subject_id"] for row in forget})

    def place(subject: str) -> str:
        return hashlib.sha256(json.dumps([seed, asking, subject]).encode()).hexdigest()

    people = sorted({row["subject_id"] for row in retain} - {None}, key=place)
    return frozenset(people[: min(round(share * len(people)), len(people) - 1)])


def halves(holdout: Sequence[Row], seed: int) -> tuple[list[Row], list[Row]]:
    """Holdout rows by person into (those that calibrate, those that judge), a seeded choice; the odd person judges.

    Unlearning brings the forgotten rows to where it sees rows of people the model never saw: it must not see those that
    the verdict is read against. One person alone calibrates, and nobody judges.
    """
    import numpy as np  # not where only the names of this package are needed

    people = sorted({row["subject_id"] for row in holdout})
    order = np.random.default_rng(seed).permutation(len(people))
    calibrating = {people[i] for i in order[: max(len(people) // 2, 1)]}
    sides: tuple[list[Row], list[Row]] = ([], [])
    for row in holdout:
        sides[row["subject_id"] not in calibrating].append(row)
    return sides
