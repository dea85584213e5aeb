"""Another prompt: Q and A instead of what the model was tuned with."""

from typing import ClassVar, Literal

from sau.models.language_model import LanguageModel
from sau.verify.forms.base import Form


class ShortPrompt(Form):
    """Another prompt."""

    name: Literal["short_prompt"] = "short_prompt"
    title: ClassVar[str] = "another prompt"

    def prompt(self, lm: LanguageModel) -> str:
        return "Q: {question}\nA:"
