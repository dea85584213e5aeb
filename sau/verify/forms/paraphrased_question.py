"""The question in other words, where the record has them."""

from typing import ClassVar, Literal

from sau.data.records import Row
from sau.verify.forms.base import Around, Form


class ParaphrasedQuestion(Form):
    """The question in other words."""

    name: Literal["paraphrased_question"] = "paraphrased_question"
    title: ClassVar[str] = "the question in other words"

    def put(self, row: Row, around: Around) -> Row | None:
        return {**row, "question": row["paraphrased_question"]} if row["paraphrased_question"] else None
