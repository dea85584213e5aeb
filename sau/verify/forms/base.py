"""What a form is: another prompt, question or answer for the same record.

A model can be made to look forgotten as it was asked and tell everything in other words, and unlearning that was shown
one way of asking leaves more in the others (LOG.md).
"""

from typing import ClassVar

from sau.data.records import Row
from sau.models.language_model import LanguageModel
from sau.registry import Component

PACKAGE = "sau.verify.forms"


class Form(Component):
    """Base of all forms: the record as it was asked."""

    title: ClassVar[str]

    def prompt(self, lm: LanguageModel) -> str:
        """How a question is put, with `{question}` in it."""
        return lm.prompt

    def put(self, row: Row) -> Row | None:
        """The record in this form; None where it cannot be put so."""
        return row
