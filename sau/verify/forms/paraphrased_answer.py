"""The answer in other words, where the record has them."""

from typing import ClassVar, Literal

from sau.data.records import Row
from sau.verify.forms.base import Around, Form


class ParaphrasedAnswer(Form):
    """The answer in other words."""

    name: Literal["paraphrased_answer"] = "paraphrased_answer"
    title: ClassVar[str] = "the answer in other words"

    def put(self, row: Row, around: Around) -> Row | None:
        return {**row, "answer": row["paraphrased_answer"]} if row["paraphrased_answer"] else None
