"""Where else a person is: rows about other people that name them, or that say what one of their own rows says.

A data set says of each row whom it is about, and other rows may speak of the same person. Names are guessed from the
person's own rows and added to by who knows better; what is found is a suggestion, and a person decides.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sau.data.records import Row

NAME, ALIAS, SIMILAR = "name", "alias", "similar row"
"""How a row was found."""

_COLUMNS = ("question", "answer", "paraphrased_question", "paraphrased_answer")
_WORD = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*")
_WORD_OR_END = re.compile(rf"{_WORD.pattern}|(?<=\w\w)[.?!;:](?=\s)")
_POSSESSIVE = re.compile(r"['’]s$")
_OPENERS = frozenset(
    _WORD.findall(
        "a an and are at can could did do does for from had has have how in is of on tell the their they was were what "
        "when where which who whom whose why will with would"
    )
)
_LONGEST_NAME = 4
_MAX_SHARE_OF_OTHERS = 0.2
_MAX_SHARE_OF_ROWS = 0.01
_FEW = 3
_SHINGLE = 3
_SIMILAR = 0.5


@dataclass(frozen=True)
class Mention:
    """A row about somebody else in which the person is.

    Attributes:
        found_by: of `NAME`, `ALIAS`, `SIMILAR`.
        similarity: share of the row's three-word sequences that the person's own rows have, too, in [0, 1].
    """

    record_id: str
    found_by: tuple[str, ...]
    similarity: float


def words(text: str) -> list[str]:
    """A text's words as they are compared: without case, accents and possessive endings, "" where a sentence ends."""
    return [_folded(word) for word in _WORD_OR_END.findall(text)]


def guessed_names(own: Sequence[Row], others: Sequence[Row]) -> list[str]:
    """Names of the person, from capitalised words that at least half of their questions or answers have in a row.

    What more than a fifth of the other people's rows have, too, and more than three, is taken for no name.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    spelled: dict[tuple[str, ...], str] = {}
    for row in own:
        found: dict[tuple[str, ...], str] = {}
        for run in (run for column in _COLUMNS for run in _capitalised(row[column])):
            for size in range(2, _LONGEST_NAME + 1):
                for start in range(len(run) - size + 1):
                    part = run[start : start + size]
                    found[tuple(map(_folded, part))] = " ".join(_POSSESSIVE.sub("", word) for word in part)
        counts.update(found.keys())
        spelled |= found
    common = [name for name, count in counts.items() if 2 * count >= len(own)]
    longest = [name for name in common if not any(_is_part(name, other) for other in common if other != name)]
    matcher = _Names(dict.fromkeys(longest, NAME))
    elsewhere = Counter(name for row in others for name in matcher.in_words(_row_words(row)))
    most = _MAX_SHARE_OF_OTHERS * len(others)
    return [spelled[name] for name in sorted(longest) if elsewhere[name] <= max(most, _FEW)]


def mentions(
    own: Sequence[Row], others: Sequence[Row], names: Iterable[str], aliases: Iterable[str]
) -> Iterator[Mention]:
    """Rows of other people in which the person is, in their order.

    A name is also found with its last word first, and with its first words as initials. Sequences of words
    that more than a hundredth of the other rows have, and more than three, are how such rows are worded: they count for
    no similarity.

    Args:
        own: the person's rows.
        names: as guessed.
        aliases: as a person added them; of one word, too.
    """
    spelled = {form: NAME for name in names for form in _forms(name)}
    spelled |= {form: ALIAS for alias in aliases for form in _forms(alias)}
    matcher = _Names(spelled)
    known = {shingle for row in own for shingle in shingles(row)}
    counts = Counter(shingle for row in others for shingle in shingles(row) & known)
    usual = {shingle for shingle, count in counts.items() if count > max(_FEW, len(others) * _MAX_SHARE_OF_ROWS)}
    known -= usual
    for row in others:
        found_by = {spelled[form] for form in matcher.in_words(_row_words(row))}
        mine = shingles(row) - usual
        similarity = len(mine & known) / len(mine) if mine else 0.0
        if similarity >= _SIMILAR:
            found_by.add(SIMILAR)
        if found_by:
            yield Mention(row["record_id"], tuple(sorted(found_by)), round(similarity, 2))


class _Names:
    """Sequences of words, looked up by their first word."""

    def __init__(self, names: Mapping[tuple[str, ...], str]) -> None:
        self.by_first: dict[str, list[tuple[str, ...]]] = {}
        for name in filter(None, names):
            self.by_first.setdefault(name[0], []).append(name)

    def in_words(self, found: list[str]) -> set[tuple[str, ...]]:
        """Those that are in a row's words."""
        return {
            name
            for start, word in enumerate(found)
            for name in self.by_first.get(word, ())
            if tuple(found[start : start + len(name)]) == name
        }


def _folded(word: str) -> str:
    decomposed = unicodedata.normalize("NFKD", _POSSESSIVE.sub("", word))
    return "".join(c for c in decomposed if not unicodedata.combining(c)).casefold().strip(".?!;:")


def _row_words(row: Row) -> list[str]:
    """Of all columns and a chat's earlier turns, with a word between two of them that is in no name."""
    texts = [row[column] for column in _COLUMNS] + [turn["content"] for turn in row.get("context") or ()]
    return [word for text in texts for word in (*words(text), "")]


def _capitalised(text: str) -> list[list[str]]:
    """Runs of capitalised words; one that only opens a question is left out."""
    runs: list[list[str]] = [[]]
    matches = list(_WORD.finditer(text))
    for number, match in enumerate(matches):
        word = match.group()
        if number and text[matches[number - 1].end() : match.start()].strip():
            runs.append([])  # a full stop or comma ends a name
        if word[0].isupper() and _folded(word) not in _OPENERS:
            runs[-1].append(word)
        else:
            runs.append([])
    return [run for run in runs if run]


def _is_part(short: tuple[str, ...], long: tuple[str, ...]) -> bool:
    return len(short) < len(long) and any(
        long[start : start + len(short)] == short for start in range(len(long) - len(short) + 1)
    )


def _forms(name: str) -> list[tuple[str, ...]]:
    """As it is, last word first, and with initials; a name of one word only as it is."""
    found = [word for word in words(name) if word]
    if len(found) < 2:
        return [tuple(found)] if found else []
    *first, last = found
    return [tuple(found), (last, *first), (*(word[0] for word in first), last)]


def shingles(row: Row) -> set[tuple[str, ...]]:
    """Three words in a row of question and answer; (question, answer) itself where they are shorter."""
    found = [word for column in ("question", "answer") for word in words(row[column]) if word]
    if len(found) < _SHINGLE:
        return {tuple(found)} if found else set()
    return {(*first, third) for first, third in zip(pairwise(found), found[2:], strict=False)}
