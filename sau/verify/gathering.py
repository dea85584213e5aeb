"""Gathering evidence: what is read of one model, and no more than the checks look at."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from sau.data.records import Row
from sau.data.sets import SETS, Sets
from sau.models.language_model import LanguageModel
from sau.verify.checks.base import Check, Evidence
from sau.verify.checks.decoy_rank import DecoyRankCheck
from sau.verify.checks.exposed_records import ExposedRecordsCheck
from sau.verify.checks.people import PeopleCheck
from sau.verify.evidence.cache import Cache
from sau.verify.evidence.cost import Meter
from sau.verify.evidence.decoys import Secret, find_secrets
from sau.verify.evidence.likelihoods import sum_logps
from sau.verify.evidence.readings import Part, Reading, read
from sau.verify.evidence.sampling import count_leaks
from sau.verify.policy import Policy
from sau.verify.stressors.base import Stressor

_NUM_SHOTS = 2

_MAX_TRUTHS = 40
"""Rows to keep whose false answers are read, five or so of each: they are reported, no verdict rests on them."""

_Ranks = DecoyRankCheck | ExposedRecordsCheck


class Gathering:
    """What a policy's checks want to know of a model, and nothing that none of them looks at.

    Attributes:
        strangers: rows of people the model never saw, where they are the null.
    """

    def __init__(self, policy: Policy, sets: Sets, seed: int, *, compared: bool, cache: Cache) -> None:
        """
        Args:
            compared: whether there is a reference, without which only exact decoys say anything.
            cache: what keeps readings of strangers.
        """
        self.strangers: Sequence[Row] = sets.holdout if policy.against == "population" else ()
        self._policy, self._sets, self._seed, self._cache = policy, sets, seed, cache
        found = find_secrets(*(rows for _, rows in sets.items()), num_decoys=policy.num_decoys, seed=seed)
        self._secrets, self._compared = self._some(found), compared

    def of(
        self, lm: LanguageModel, checks: Sequence[Check], meter: Meter, *, stressor: Stressor | None = None
    ) -> Evidence:
        """All numbers of one model; after a stressor only those that the checks look at, and fewer decoys."""
        null, stressed = self._policy.against, stressor is not None
        names = {name for check in checks for name in check.reads(null)} if stressed else set(SETS)
        needs = [check.needs for check in checks]
        if not stressed:
            needs += [metric.needs for metric in self._policy.metrics]
        extras = {check.extra for check in checks}
        readings = {name: self._read(lm, name, needs, meter, keep=not stressed) for name in SETS if name in names}
        with meter.part("decoys", lm.model):
            decoys = self._decoys(lm, checks, stressor) if "decoys" in extras else ()
        with meter.part("samples", lm.model):
            leaks = self._leaks(lm, self._sets.forget, self._secrets) if "samples" in extras else None
            chance = self._leaks(lm, self.strangers, self._others) if "samples" in extras and self.strangers else None
        secrets = self._secrets if decoys else []
        rows, exact = (tuple(getattr(secret, name) for secret in secrets) for name in ("row", "exact"))
        return Evidence(readings, rows, decoys, exact, leaks, chance)

    def of_people(self, lm: LanguageModel, checks: Sequence[Check], meter: Meter) -> Evidence:
        """What one model makes of the forget rows and of strangers' rows."""
        needs = [check.needs for check in checks]
        return Evidence({name: self._read(lm, name, needs, meter, keep=True) for name in PeopleCheck.strangers})

    def _read(
        self, lm: LanguageModel, name: str, needs: Sequence[frozenset[Part]], meter: Meter, *, keep: bool
    ) -> Reading:
        parts: frozenset[Part] = frozenset().union(*needs)
        beside_strangers = name == "holdout" and bool(self.strangers)
        if name == "retain" or (name == "holdout" and not beside_strangers):
            parts -= {"forms", "exits"}
        if beside_strangers:  # the false answers of so many people cost more than all else
            parts -= {"truth_ratio"}
        rows, form_rows = self._sets[name], self._policy.form_rows if beside_strangers else None
        max_truths = _MAX_TRUTHS if name == "retain" else None

        def take() -> Reading:
            return read(lm, rows, parts, strangers=self._sets.holdout, form_rows=form_rows, max_truths=max_truths)

        with meter.part(name, lm.model):
            kept = keep and beside_strangers and not parts & {"rouge", "gradient"}
            return self._cache.reading(lm, rows, take, sorted(parts), form_rows) if kept else take()

    @cached_property
    def _others(self) -> list[Secret]:
        """Secrets of strangers, which have to be guessed."""
        return self._some(find_secrets(self.strangers, self._sets.retain, (), num_decoys=1, seed=self._seed))

    def _some(self, secrets: list[Secret]) -> list[Secret]:
        """At most as many as the policy says, a seeded choice."""
        if len(secrets) <= self._policy.max_decoy_records:
            return secrets
        rng = np.random.default_rng(self._seed)
        return [secrets[i] for i in sorted(rng.choice(len(secrets), self._policy.max_decoy_records, replace=False))]

    def _leaks(self, lm: LanguageModel, rows: Sequence[Row], secrets: Sequence[Secret]) -> tuple[int, int]:
        """(samples that hold a secret, samples)."""
        # The shortest rows to keep serve as examples: a prompt must not outgrow the model's context.
        shots = sorted(self._sets.retain, key=lambda row: (len(row["question"] + row["answer"]), row["record_id"]))
        number = self._policy.num_samples
        return count_leaks(lm, rows, secrets, num_samples=number, seed=self._seed, shots=shots[:_NUM_SHOTS])

    def _decoys(self, lm: LanguageModel, checks: Sequence[Check], stressor: Stressor | None) -> tuple[np.ndarray, ...]:
        """Per secret the log-probability of the true answer and of each decoy, nothing where no check can use it.

        After a stressor as few decoys as the checks take: they are read anew for each.
        """
        taught = stressor is not None and stressor.teaches
        most = max(check.min_decoys for check in checks if isinstance(check, _Ranks)) if stressor else None
        rows = [self._sets.forget[secret.row] for secret in self._secrets]
        texts = [
            (row["answer"], *secret.decoys[:most]) if self._compared or (secret.exact and not taught) else ()
            for row, secret in zip(rows, self._secrets, strict=True)
        ]
        flat = [{**row, "answer": text} for row, choices in zip(rows, texts, strict=True) for text in choices]
        logps = sum_logps(lm, lm.encode(flat))
        return tuple(np.split(logps, np.cumsum([len(choices) for choices in texts])[:-1])) if texts else ()
