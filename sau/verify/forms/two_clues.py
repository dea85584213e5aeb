"""A chain of two clues: the person is not named, but described by two other facts of theirs.

Whoever suppresses what follows a name does not suppress this. The name is the capitalised words that stand in at least
half of the person's questions; a record whose question has none, or has no two others beside it, cannot be put so.
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterable
from typing import ClassVar, Literal

from sau.data.records import Row
from sau.verify.forms.base import Around, Form

_NAME = re.compile(r"\b[A-Z]\w*(?:-\w+)*(?:\s+[A-Z]\w*(?:-\w+)*)*")
_NUM_CLUES = 2
_LONGEST_CLUE = 300  # characters; what is longer is no clue, and would make a prompt that no context holds


class TwoClues(Form):
    """Two other facts instead of the name."""

    name: Literal["two_clues"] = "two_clues"
    title: ClassVar[str] = "a chain of two clues"

    def put(self, row: Row, around: Around) -> Row | None:
        clues = [own["answer"] for own in around.own if len(own["answer"]) <= _LONGEST_CLUE]
        name = name_of(own["question"] for own in (row, *around.own))
        if len(clues) < _NUM_CLUES or not name or name not in row["question"]:
            return None
        first = zlib.crc32(row["record_id"].encode())  # always the same ones
        given = [clues[(first + i) % len(clues)] for i in range(_NUM_CLUES)]
        return {**row, "question": " ".join([*given, row["question"].replace(name, "this person")])}


def name_of(questions: Iterable[str]) -> str:
    """The capitalised words, not at a question's start, that stand in most of the questions; empty where in fewer than
    half."""
    texts = list(questions)
    found = Counter(match.group() for text in texts for match in _NAME.finditer(text) if match.start() > 0)
    name, times = max(found.items(), key=lambda entry: (entry[1], len(entry[0])), default=("", 0))
    return name if 2 * times >= len(texts) else ""
