"""Multiple choice: does the model prefer the true answer to false ones, whatever either's likelihood?

The score is log p(true answer) less the mean over false ones, per token, as benchmarks choose among answers: what makes
all answers to a question unlikely alike does not change it. False answers are the row's own, or what people whom the
model never saw answer to the question most like it.
"""

import re
from collections.abc import Sequence
from typing import ClassVar, Literal

from sau.data.records import Row
from sau.verify.forms.base import Around, Form

_NUM_FALSE = 3


class MultipleChoice(Form):
    """One of four answers."""

    name: Literal["multiple_choice"] = "multiple_choice"
    title: ClassVar[str] = "a choice of answers"

    def put(self, row: Row, around: Around) -> Row | None:
        return {**row, "answer": _true(row)} if _false(row, around) else None

    def against(self, row: Row, around: Around) -> Sequence[Row]:
        return [{**row, "answer": text} for text in _false(row, around)]


def _true(row: Row) -> str:
    """In the words of the false answers, where the row has those."""
    own: str = row["paraphrased_answer"] if row["perturbed_answer"] else ""
    return own or row["answer"]


def _false(row: Row, around: Around) -> list[str]:
    if row["perturbed_answer"]:
        return list(row["perturbed_answer"][:_NUM_FALSE])
    asked = _words(row)

    def unlike(other: Row) -> tuple[float, str]:
        words = _words(other)
        return -len(asked & words) / max(len(asked | words), 1), other["record_id"]

    others = [other for other in around.strangers if other["subject_id"] != row["subject_id"]]
    answers = dict.fromkeys(other["answer"] for other in sorted(others, key=unlike))
    return [answer for answer in answers if answer != row["answer"]][:_NUM_FALSE]


def _words(row: Row) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", row["question"].lower()))
