"""The question reversed: given the answer, how likely is the question?

The score is log p(question | answer) less log p(question | another answer of the same person), per token: how likely a
question or a name is by itself cancels. Models rarely learn a fact backwards (arXiv 2309.12288), so mostly this form
shows nothing and does not decide; a model that was made to tell it in this direction only is seen.
"""

import zlib
from collections.abc import Sequence
from typing import ClassVar, Literal

from sau.data.records import Row
from sau.models.language_model import LanguageModel
from sau.verify.forms.base import Around, Form


class ReversedQuestion(Form):
    """From the answer to the question."""

    name: Literal["reversed_question"] = "reversed_question"
    title: ClassVar[str] = "the question reversed"

    def prompt(self, lm: LanguageModel) -> str:
        return "Answer: {question}\nQuestion:"

    def put(self, row: Row, around: Around) -> Row | None:
        return {**row, "question": row["answer"], "answer": row["question"]} if self.against(row, around) else None

    def against(self, row: Row, around: Around) -> Sequence[Row]:
        others = [own for own in around.own if own["answer"] != row["answer"]]
        if not others:
            return ()
        other = others[zlib.crc32(row["record_id"].encode()) % len(others)]  # always the same one
        return [{**row, "question": other["answer"], "answer": row["question"]}]
