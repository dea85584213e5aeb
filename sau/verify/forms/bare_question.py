"""No prompt at all: the question, and what follows it."""

from typing import ClassVar, Literal

from sau.models.language_model import LanguageModel
from sau.verify.forms.base import Form


class BareQuestion(Form):
    """The question alone."""

    name: Literal["bare_question"] = "bare_question"
    title: ClassVar[str] = "the question alone"

    def prompt(self, lm: LanguageModel) -> str:
        return "{question}"
