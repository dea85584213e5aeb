"""How far a sparse model is from the retrained ones, and which run a user would choose who has none of those."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from sau.data.sets import Sets
from sau.errors import DataError
from sau.models.batches import Encoded
from sau.models.language_model import LanguageModel
from sau.models.scoring import answer_logps
from sau.unlearn.calibration import expected_logps
from sau.verify.checks.decoy_rank import place as place_among_decoys
from sau.verify.evidence.decoys import find_secrets
from sau.verify.evidence.likelihoods import sum_logps
from sau.verify.stats import auc

REFERENCES = ("original", "retrained", "retrained-again")
UTILITY_FLOOR = 0.9
NUM_DECOYS, MAX_DECOY_RECORDS = 19, 40

TokenLogps = Mapping[str, Sequence[Tensor]]
"""Set -> per row the log-probabilities [n_i] of its answer's tokens."""


@dataclass(frozen=True)
class Reading:
    """Of one model: mean over records of exp(mean answer-token log-probability), in [0, 1], for three sets; the chance
    that a forget row is likelier than a holdout row (AUC of the loss attack); and the forget rows one by one."""

    forget_prob: float
    retain_prob: float
    holdout_prob: float
    auc: float
    forget_prob_N: np.ndarray = field(repr=False)

    def numbers(self) -> dict[str, float]:
        """Without the single rows."""
        return {name: value for name, value in vars(self).items() if name != "forget_prob_N"}


@dataclass(frozen=True)
class Decoys:
    """Some forget rows' true answers, each followed by its decoys, as sequences of one list.

    Attributes:
        sequences: all of them.
        starts: where each row's own begin, but the first.
    """

    sequences: list[Encoded]
    starts: np.ndarray

    def place(self, lm: LanguageModel) -> float:
        """Mean share of decoys that are less likely than the true answer (`decoy_rank`); 1 where it always is first."""
        return float(
            np.mean([place_among_decoys(scores) for scores in np.split(sum_logps(lm, self.sequences), self.starts)])
        )


@dataclass(frozen=True)
class Target:
    """What is to be reached: the mean of the retrained models, and their place among decoys."""

    reading: Reading
    place: float


def read(lm: LanguageModel, sets: Mapping[str, list[Encoded]]) -> TokenLogps:
    """Per set and row the log-probabilities of the answer's tokens."""
    return {name: answer_logps(lm.model, sequences) for name, sequences in sets.items()}


def measure(read: TokenLogps) -> Reading:
    """What was read of a model on `forget`, `retain` and `holdout`, in numbers."""
    logps = {name: np.array([float(logp.mean()) for logp in rows]) for name, rows in read.items()}
    probs = {f"{name}_prob": float(np.exp(values).mean()) for name, values in logps.items()}
    return Reading(**probs, auc=auc(logps["forget"], logps["holdout"]), forget_prob_N=np.exp(logps["forget"]))


def decoys(lm: LanguageModel, rows: Sets, seed: int) -> Decoys:
    """The decoys of at most MAX_DECOY_RECORDS forget rows, NUM_DECOYS at most for each (`sau.verify.decoys`)."""
    forget = rows.forget
    secrets = find_secrets(forget, rows.retain, rows.holdout, num_decoys=NUM_DECOYS, seed=seed)
    chosen = np.random.default_rng(seed).permutation(len(secrets))[:MAX_DECOY_RECORDS]
    answers = [(forget[s.row], (forget[s.row]["answer"], *s.decoys)) for s in (secrets[i] for i in sorted(chosen))]
    if not answers:
        raise DataError("no forget row has a decoy: the benchmark needs rows that ask several people the same")
    texts = [{**row, "answer": text} for row, choices in answers for text in choices]
    return Decoys(lm.encode(texts), np.cumsum([len(choices) for _, choices in answers])[:-1])


def mean_target(readings: Mapping[str, Reading], ranks: Mapping[str, float]) -> Target:
    """The mean of the retrained models among the references."""
    retrained = [name for name in REFERENCES if name != "original"]
    means = {
        key: np.mean([vars(readings[name])[key] for name in retrained], axis=0) for key in vars(readings["original"])
    }
    return Target(Reading(**means), float(np.mean([ranks[name] for name in retrained])))


def distances(reading: Reading, place: float | None, *, before: Reading, target: Target) -> dict[str, float]:
    """How far a sparse model is from the retrained ones; all numbers are shares, 0 is equal.

    average_distance: the mean of |answer probability on forget rows - retrained's| and |AUC - retrained's|.
    forget_distance: the mean of these two and |decoy place - retrained's|, which averages cannot see.
    record_distance: root mean square over forget rows of the difference in answer probability.
    utility: retain probability as a share of that of `before`, the sparse model before unlearning.
    utility_gap: how much less utility than the retrained model has; 0 where it is no less.
    distance_to_retrain: sqrt(forget_distance^2 + utility_gap^2), of average_distance where there is no `place`.
    """
    goal = target.reading
    gaps = [abs(reading.forget_prob - goal.forget_prob), abs(reading.auc - goal.auc)]
    result = {"average_distance": float(np.mean(gaps))}
    if place is not None:
        result |= {"decoy_place": place, "forget_distance": float(np.mean([*gaps, abs(place - target.place)]))}
    utility = reading.retain_prob / before.retain_prob
    gap = max(0.0, goal.retain_prob / before.retain_prob - utility)
    return result | {
        "record_distance": float(np.sqrt(np.mean((reading.forget_prob_N - goal.forget_prob_N) ** 2))),
        "utility": utility,
        "utility_gap": gap,
        "distance_to_retrain": math.hypot(result.get("forget_distance", result["average_distance"]), gap),
    }


def goal_gap(read: TokenLogps, base: TokenLogps) -> float:
    """How far the forget rows' mean answer log-probability is, in nats, from where base model and holdout say that rows
    are which the model never saw (`sau.unlearn.calibration`): what the product's stop rule goes by."""
    goals = expected_logps(read["holdout"], base["holdout"], base["forget"])
    return abs(float(np.mean([float((logp - goal).mean()) for logp, goal in zip(read["forget"], goals, strict=True)])))


def rank(reading: Reading, before: Reading, gap: float) -> tuple[bool, float]:
    """How a user who has no retrained model orders runs, best first.

    Those that keep UTILITY_FLOOR of the retain rows' answer probability come first, by sqrt(a^2 + b^2), which is built
    as the distance to retraining is: a is how far the forget rows' answer probability is from its goal (to first order
    the probability times `gap`, see `goal_gap`), b the utility lost. Then the others, the most useful first.
    """
    utility = reading.retain_prob / before.retain_prob
    if utility < UTILITY_FLOOR:
        return True, -utility
    return False, math.hypot(reading.forget_prob * gap, max(1 - utility, 0.0))
