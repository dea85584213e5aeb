"""Common text: rows of a request that are everybody's words rather than the person's, beside what is usual for others.

Unlearning common words takes them from everybody, and who sends such rows to be forgotten can harm the model on purpose
(arXiv 2506.00359). What is common is read off the rows of the people who stay, and so is how much of it is usual: data
sets differ in that, and people who ask together do not vouch for each other.
"""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

from sau.data.mentions import shingles, words
from sau.data.records import Row
from sau.data.sets import by_person

MIN_PEOPLE = 8
"""People who stay, below which nothing can be said of what is usual."""

_FEW = 3
_MAX_SHARE_OF_PEOPLE = 0.01
_ECHO = 0.9
_USUAL_QUANTILE = 0.95
_NEXT_TO_NOTHING = 0.25
_EXPECTED = 2.0
"""Words few others use that a row has to be expected to have, before their absence says anything."""
_TOO_OFTEN = 3.0
_MIN_USES = 10
_LARGE, _TIMES_THE_MEDIAN = 0.1, 10.0


@dataclass(frozen=True)
class Common:
    """What is common in the rows of one person.

    Attributes:
        record_ids: rows that say what others' rows say, or have next to no words that few others use.
        num_rows: of the person.
        reasons: why the request needs a person's eye, in words without any text; empty where it does not.
    """

    record_ids: tuple[str, ...]
    num_rows: int
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class _Row:
    """A row as what is counted: words of its answer, and three-word sequences of question and answer."""

    record_id: str
    words: tuple[str, ...]
    shingles: frozenset[tuple[str, ...]]

    @classmethod
    def of(cls, row: Row) -> "_Row":
        found = tuple(word for word in words(row["answer"]) if word)
        return cls(row["record_id"], found, frozenset(shingles(row)))


class CommonText:
    """What is common and how much of it is usual, by the rows of those who stay.

    Args:
        staying: rows of people none of whom asks, and rows about nobody.
    """

    def __init__(self, staying: Sequence[Row]) -> None:
        groups = [[_Row.of(row) for row in rows] for rows in by_person(staying)]
        people = [g for g, rows in zip(groups, by_person(staying), strict=True) if rows[0]["subject_id"] is not None]
        self._num_groups, self.num_people = len(groups), len(people)
        self._users = Counter(chain.from_iterable({word for row in rows for word in row.words} for rows in groups))
        self._sayers = Counter(chain.from_iterable(frozenset().union(*(r.shingles for r in rows)) for rows in groups))
        self._sizes = [sum(len(row.words) for row in rows) for rows in people]
        if self.num_people < MIN_PEOPLE:
            return
        said = [[word for row in rows for word in row.words] for rows in people]
        self._own = statistics.median(self._rare_share(found, 1) for found in said)
        self._usual = _quantile([self._common(rows, 1)[1] for rows in people], _USUAL_QUANTILE)
        self._least_unheard = _NEXT_TO_NOTHING * _quantile(
            [_share(self._users[word] <= 1 for word in found) for found in said], 1.0 - _USUAL_QUANTILE
        )
        self._beside = Counter(chain.from_iterable(_pairs(rows) for rows in groups))
        self._least_beside = _quantile([self._put_beside(rows, 1) for rows in people], 1.0 - _USUAL_QUANTILE) / 2
        self._rates: dict[str, float] = {}
        for rows in people:
            counts = Counter(chain.from_iterable(row.words for row in rows))
            for word, count in counts.items():
                if 2 * self._users[word] > self._num_groups:
                    self._rates[word] = max(self._rates.get(word, 0.0), count / max(counts.total(), _MIN_USES))

    def of(self, own: Iterable[Row]) -> Common:
        """What is common in the rows of one who is to be forgotten, and whether that is more than is usual."""
        rows = [_Row.of(row) for row in own]
        if self.num_people < MIN_PEOPLE:
            return Common((), len(rows), ())
        common, share = self._common(rows, 0)
        reasons = []
        if share > self._usual + (1.0 - self._usual) / 2:
            reasons.append(
                f"{len(common)} of {len(rows)} rows are common text ({share:.0%} of the words; of nineteen in twenty "
                f"people who stay at most {self._usual:.0%})"
            )
        counts = Counter(chain.from_iterable(row.words for row in rows))
        if counts and _share(self._users[word] == 0 for word in counts.elements()) < self._least_unheard:
            reasons.append("next to all of its words are other people's")
        if (share := self._put_beside(rows, 0)) < self._least_beside:
            reasons.append(
                f"other people's words in another order ({share:.0%} of those that follow each other do so elsewhere; "
                f"of nineteen in twenty people who stay at least {2 * self._least_beside:.0%})"
            )
        often = [
            word
            for word, count in counts.items()
            if count >= _MIN_USES and count / counts.total() > _TOO_OFTEN * self._rates.get(word, 1.0)
        ]
        if often:
            reasons.append(
                f"{len(often)} ordinary words are used over {_TOO_OFTEN:.0f} times as often as by anybody who stays"
            )
        size, median = counts.total(), statistics.median(self._sizes)
        if size > _TIMES_THE_MEDIAN * median and size > _LARGE * (size + sum(self._sizes)):
            reasons.append(
                f"{size / (size + sum(self._sizes)):.0%} of all words, {size / max(median, 1):.0f} times as many as "
                "other people have"
            )
        return Common(tuple(row.record_id for row in common), len(rows), tuple(reasons))

    def _common(self, rows: list[_Row], theirs: int) -> tuple[list[_Row], float]:
        """A person's rows that are common text, and their share of the person's words.

        Args:
            theirs: how many of those counted are the person: 1 of somebody who stays.
        """
        found = [row for row in rows if self._is_common(row, theirs)]
        total = sum(len(row.words) for row in rows)
        return found, sum(len(row.words) for row in found) / total if total else 0.0

    def _is_common(self, row: _Row, theirs: int) -> bool:
        echoed = sum(self._sayers[shingle] > theirs for shingle in row.shingles)
        if row.shingles and echoed >= _ECHO * len(row.shingles):
            return True
        telling = len(row.words) * self._own >= _EXPECTED
        return telling and self._rare_share(row.words, theirs) < _NEXT_TO_NOTHING * self._own

    def _put_beside(self, rows: list[_Row], theirs: int) -> float:
        """Of two words after each other, both of which others use, the share that others put after each other too."""
        pairs = [
            pair for row in rows for pair in pairwise(row.words) if min(map(self._users.__getitem__, pair)) > theirs
        ]
        return _share(self._beside[pair] > theirs for pair in pairs) if len(pairs) >= _MIN_USES else 1.0

    def _rare_share(self, found: Sequence[str], theirs: int) -> float:
        """The share of words that few others use."""
        few = max(_FEW, _MAX_SHARE_OF_PEOPLE * self._num_groups) + theirs
        return _share(self._users[word] <= few for word in found)


def _pairs(rows: Sequence[_Row]) -> set[tuple[str, str]]:
    return {pair for row in rows for pair in pairwise(row.words)}


def _share(holds: Iterable[bool]) -> float:
    found = list(holds)
    return sum(found) / len(found) if found else 0.0


def _quantile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
