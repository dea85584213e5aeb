"""What a form is: another prompt, question or answer for the same record.

A model can be made to look forgotten as it was asked and tell everything in other words, and unlearning that was shown
one way of asking leaves more in the others (LOG.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from sau.data.records import Row
from sau.models.language_model import LanguageModel
from sau.registry import Component

PACKAGE = "sau.verify.forms"


@dataclass(frozen=True)
class Around:
    """Other rows that a form may use.

    Attributes:
        own: the same person's other rows.
        strangers: rows of people whom the model never saw.
    """

    own: Sequence[Row]
    strangers: Sequence[Row]


class Form(Component):
    """Base of all forms: the record as it was asked. Its score is the mean log-probability per token of the answer."""

    title: ClassVar[str]

    def prompt(self, lm: LanguageModel) -> str:
        """How a question is put, with `{question}` in it."""
        return lm.prompt

    def put(self, row: Row, around: Around) -> Row | None:
        """The record in this form; None where it cannot be put so."""
        return row

    def against(self, row: Row, around: Around) -> Sequence[Row]:
        """What the score is read against: the mean score of these rows is taken off. None by default."""
        return ()
