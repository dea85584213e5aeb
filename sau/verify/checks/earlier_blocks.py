"""How much do earlier blocks know? Forgetting that only the last blocks do hides knowledge, and leaves it in the file.

The answers are read out before the last blocks (`sau.verify.evidence.exits`).
"""

from typing import ClassVar, Literal

from pydantic import Field

from sau.verify.checks.base import Array
from sau.verify.checks.several import SeveralWays
from sau.verify.evidence.readings import Part, Reading


class EarlierBlocksCheck(SeveralWays):
    """Wider margins than as asked: unlearning works through the last blocks first."""

    name: Literal["earlier_blocks"] = "earlier_blocks"
    title: ClassVar[str] = "Read from earlier blocks"
    question: ClassVar[str] = "share of what had been learned that is left in the states before the last blocks"

    margin: float = Field(0.7, gt=0, lt=1)
    share: float = Field(0.6, gt=0, lt=1)

    @property
    def needs(self) -> frozenset[Part]:
        return frozenset({"exits"})

    def ways(self, reading: Reading) -> dict[str, Array]:
        return {f"after block {number}": values for number, values in reading.exits.items()}
