"""Before anything is trained: does the model know this person, and what could a verdict say of so many rows?"""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from sau.data.records import Row
from sau.data.sets import numbered
from sau.models.language_model import LanguageModel
from sau.verify.checks.base import Bench, Evidence, NothingToShowError
from sau.verify.checks.residual_knowledge import ResidualKnowledgeCheck
from sau.verify.evidence.readings import read
from sau.verify.policy import Policy


class Foresight(BaseModel):
    """What to expect of a request.

    Attributes:
        known: whether the model tells the person from strangers; where it does not, there is nothing to erase that
            could be seen.
        num_records, num_people: of the person; strangers to judge beside.
        margin: the share of what had been learned that so few rows can be held to; null where nothing is known.
        power: chance that a perfect result passes `residual_knowledge`.
        lacking: what the policy asks for beyond that; empty where nothing lacks.
        doubts: why a run would wait for a person to look at the rows, see `sau.data.common_text`.
    """

    model_config = ConfigDict(frozen=True)

    known: bool
    num_records: int
    num_people: int
    margin: float | None = None
    power: float | None = None
    lacking: str = ""
    doubts: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """In a sentence."""
        aside = f". A person has to look at it before a run takes it: {'; '.join(self.doubts)}" if self.doubts else ""
        return self._expected + aside

    @property
    def _expected(self) -> str:
        rows = f"{self.num_records} record{'s' * (self.num_records != 1)}"
        if self.lacking:
            return f"{rows}; no verdict: {self.lacking}"
        if not self.known:
            return f"{rows}; the model knows them no better than those of {self.num_people} strangers: nothing to erase"
        return (
            f"{rows}, which the model knows; a verdict can hold it to {self.margin:.0%} of what it had learned, and a "
            f"perfect result passes with a probability of {self.power:.2f}"
        )


def foresee(lm: LanguageModel, rows: Sequence[Row], strangers: Sequence[Row], policy: Policy) -> Foresight:
    """What a verdict by `policy` could say of a person, by the model as it is before unlearning.

    Args:
        rows: the person's; strangers: of people whom the model never saw.
    """
    people = {"forget": numbered(rows), "holdout": numbered(strangers)}
    counted = {"num_records": len(rows), "num_people": len(set(people["holdout"]))}
    if (missing := policy.min_people - counted["num_people"]) > 0:
        return Foresight(known=False, lacking=f"{missing} people the model never saw are missing", **counted)
    evidence = Evidence({"forget": read(lm, rows), "holdout": read(lm, strangers)})
    alpha = 1.0 - policy.confidence
    bench = Bench(evidence, None, alpha, 0, null="population", people=people, widest=policy.widest_margin)
    checks = [check for check in policy.checks if isinstance(check, ResidualKnowledgeCheck)]
    try:
        found = (checks or [ResidualKnowledgeCheck()])[0].measure(evidence, bench)
    except NothingToShowError:
        return Foresight(known=False, **counted)
    return Foresight(known=True, margin=found.allowed[1], power=found.power, **counted)
