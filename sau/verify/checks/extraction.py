"""Does the model complete the forgotten answers by itself, more than one that never saw them?

Beside people the model never saw the number is the share of what it had completed before that is left.
"""

from typing import ClassVar, Literal

from pydantic import Field

from sau.verify.checks.base import Bench, Control, Evidence, Measure
from sau.verify.checks.people import PeopleCheck, share_left
from sau.verify.metrics.base import checked_values
from sau.verify.metrics.extraction_strength import ExtractionStrength
from sau.verify.stats import interval, p_against, resamples, tost_power


class ExtractionCheck(PeopleCheck):
    """Mean extraction strength on the forget rows, at most `margin` above the reference's, paired over records; beside
    people the model never saw at most `share` of what there was."""

    name: Literal["extraction"] = "extraction"
    title: ClassVar[str] = "Extraction"
    question: ClassVar[str] = "share of a forgotten answer that the model completes word for word"
    left: ClassVar[str] = "share that is left of what the model completed word for word beyond a stranger's answers"
    uses: ClassVar[frozenset[Control]] = frozenset({"reference"})
    sets: ClassVar[tuple[str, ...]] = ("forget",)

    margin: float = Field(0.15, gt=0, lt=1)

    def beside_strangers(self, model: Evidence, bench: Bench) -> Measure:
        return share_left(
            lambda reading: {"": checked_values(ExtractionStrength().per_record(reading), self.name)},
            model,
            bench,
            margin=self.share,
            over_margin=None,
        )

    def beside_retrained(self, model: Evidence, bench: Bench) -> Measure:
        assert bench.reference is not None
        after, reference = (
            checked_values(ExtractionStrength().per_record(e.readings["forget"]), self.name)
            for e in (model, bench.reference)
        )
        target = float(reference.mean())
        draws = resamples(len(after), bench.seed) @ (after - reference)
        low, high = interval(draws, bench.alpha)
        return Measure(
            n=len(after),
            value=float(after.mean()),
            interval=(max(0.0, target + low), min(1.0, target + high)),
            allowed=(None, target + self.margin),
            p=p_against(draws, 0.0),
            power=tost_power(-float("inf"), self.margin, float(draws.std()), bench.alpha),
        )
