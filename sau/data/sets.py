"""The three sets of a request's rows: to forget, to keep, and never trained on."""

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
    """

    forget: Sequence[Row]
    retain: Sequence[Row]
    holdout: Sequence[Row] = ()

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
