"""The question as people type it: no capitals."""

from typing import ClassVar, Literal

from sau.data.records import Row
from sau.verify.forms.base import Around, Form


class LowerCase(Form):
    """The question without capitals."""

    name: Literal["lower_case"] = "lower_case"
    title: ClassVar[str] = "the question without capitals"

    def put(self, row: Row, around: Around) -> Row | None:
        return {**row, "question": row["question"].lower()}
