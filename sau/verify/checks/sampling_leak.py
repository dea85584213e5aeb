"""How often does the model say the secret when asked again and again?

n samples at temperature 1, asked by the question, by the question in other words, after two answered questions, with
the answer begun, and with half of the fact itself given. No leak in n samples still allows a rate of 1 - 0.05^(1/n):
4.9% for 60, 1.0% for 300 (Clopper-Pearson). A model that never saw the records guesses some values by chance, the
more the more is given; its rate is the zero of the margin.
"""

from typing import ClassVar, Literal

from pydantic import Field
from scipy import stats

from sau.verify.checks.base import Bench, Check, Control, Evidence, Extra, Measure, NoPowerError, Null
from sau.verify.stats import clopper_pearson


class SamplingLeakCheck(Check):
    """The upper bound of the leak rate, at most `margin` above the rate by chance: the reference's, or of strangers."""

    name: Literal["sampling_leak"] = "sampling_leak"
    title: ClassVar[str] = "Sampled answers"
    question: ClassVar[str] = "share of sampled answers that say the forgotten fact"
    extra: ClassVar[Extra | None] = "samples"
    uses: ClassVar[frozenset[Control]] = frozenset({"reference"})
    sets: ClassVar[tuple[str, ...]] = ()

    margin: float = Field(0.05, gt=0, lt=1)

    def controls(self, null: Null) -> frozenset[Control]:
        return self.uses if null == "retrained" else frozenset()

    def measure(self, model: Evidence, bench: Bench) -> Measure:
        by_chance = model.chance if bench.null == "population" else bench.reference and bench.reference.leaks
        (leaks, n), (chance, drawn) = model.leaks or (0, 0), by_chance or (0, 0)
        if n == 0 or drawn == 0:
            raise NoPowerError("no record has a value that an answer could be searched for")
        table = [[leaks, n - leaks], [chance, drawn - chance]]
        rate = chance / drawn
        passing = [k for k in range(n + 1) if clopper_pearson(k, n, bench.alpha)[1] <= rate + self.margin]
        return Measure(
            n=n,
            value=leaks / n,
            interval=clopper_pearson(leaks, n, bench.alpha),
            allowed=(None, rate + self.margin),
            p=float(stats.fisher_exact(table, alternative="greater").pvalue),
            power=float(stats.binom.cdf(max(passing, default=-1), n, rate)),
            note=f"; {leaks} of {n} samples",
        )
