"""How much is left where the same facts are asked in other ways: in the forms of `sau.verify.forms`?"""

from typing import ClassVar, Literal

from sau.registry import discover
from sau.verify.checks.base import Array
from sau.verify.checks.several import SeveralWays
from sau.verify.evidence.readings import Part, Reading
from sau.verify.forms.base import PACKAGE, Form


class OtherFormsCheck(SeveralWays):
    """In other words and under other prompts, which unlearning may never have been shown."""

    name: Literal["other_forms"] = "other_forms"
    title: ClassVar[str] = "Asked in other ways"
    question: ClassVar[str] = "share of what had been learned that is left in other forms of the question"

    @property
    def needs(self) -> frozenset[Part]:
        return frozenset({"forms"})

    def ways(self, reading: Reading) -> dict[str, Array]:
        return {form.title: reading.forms[name] for name, form in discover(Form, PACKAGE).items()}
