"""A request in a sentence, which the answer goes on with."""

from typing import ClassVar, Literal

from sau.models.language_model import LanguageModel
from sau.verify.forms.base import Form


class PoliteRequest(Form):
    """A request in a sentence."""

    name: Literal["polite_request"] = "polite_request"
    title: ClassVar[str] = "a request in a sentence"

    def prompt(self, lm: LanguageModel) -> str:
        return "Please tell me. {question} It is known that"
