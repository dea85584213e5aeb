"""A verification under way: takes in one model after the other, under every stressor, then judges."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from sau.data.sets import SETS, Sets
from sau.errors import SauError
from sau.models.language_model import LanguageModel
from sau.verify.checks.base import Bench, Check, Evidence, Measure, NoPowerError
from sau.verify.evidence.blind import blind_baseline
from sau.verify.evidence.cost import Cost, Meter
from sau.verify.evidence.decoys import find_secrets
from sau.verify.evidence.readings import ModelSource, Part, opened, read, sum_logps
from sau.verify.evidence.sampling import count_leaks
from sau.verify.findings import finding_of
from sau.verify.policy import Policy
from sau.verify.record import ROLES, Finding
from sau.verify.stats import holm
from sau.verify.stressors.base import Stressor, Surroundings

_STRESSING = "stressing"

_NUM_SHOTS = 2


@dataclass(frozen=True)
class Controls:
    """The models that an unlearned one is read against; each may be a function that opens it, so that only one is in
    memory at a time.

    Attributes:
        before: the model before unlearning, which has to be detected: else the checks have no power.
        reference: one that never saw the forget rows but was otherwise trained alike (a base model, which knows none of
            the data, would be stricter than fair), which has to pass.
        dense: the dense model that sparse ones come from, for the stressor `densify`; opened only where that runs, and
            where it cannot be, the verdict says so.
    """

    before: ModelSource | None = None
    reference: ModelSource | None = None
    dense: ModelSource | None = None


@dataclass
class Trial:
    """The models as they are (no stressor), or after one: whose evidence there is, why others' is missing, and what
    it cost."""

    stressor: Stressor | None
    checks: tuple[Check, ...]
    evidence: dict[str, Evidence] = field(default_factory=dict)
    troubles: dict[str, str] = field(default_factory=dict)
    meter: Meter = field(default_factory=Meter)

    def cost(self, check: Check) -> Cost:
        """Of the check's numbers of all models."""
        return self.meter.of(*check.sets, *([check.extra] if check.extra else ()), _STRESSING, f"judging {check.id}")

    def fork(self) -> "Trial":
        """The same so far; what either takes in from here on is its own."""
        return Trial(
            self.stressor, self.checks, dict(self.evidence), dict(self.troubles), Meter(dict(self.meter.parts))
        )


class Run:
    """One verification under way: takes in one model after the other, then judges."""

    def __init__(
        self,
        policy: Policy,
        sets: Sets,
        seed: int,
        dense: ModelSource | None,
        say: Callable[[str], None],
    ) -> None:
        self.policy, self.sets, self.seed, self.dense, self.say = policy, sets, seed, dense, say
        self.secrets = find_secrets(*(rows for _, rows in sets.items()), num_decoys=policy.num_decoys, seed=seed)
        if len(self.secrets) > policy.max_decoy_records:
            chosen = np.random.default_rng(seed).choice(len(self.secrets), policy.max_decoy_records, replace=False)
            self.secrets = [self.secrets[i] for i in sorted(chosen)]
        repeated = tuple(check for check in policy.checks if check.id in policy.stressed_checks)
        self.as_stored = Trial(None, policy.checks)
        self.trials = [self.as_stored, *(Trial(stressor, repeated) for stressor in policy.stressors_run)]
        beyond = {"unlearned": f"beyond the budget of {policy.num_stressors} stressors"}
        self.left_out = [Trial(s, repeated, troubles=beyond) for s in policy.stressors_left_out if s.mandatory]

    def fork(self) -> "Run":
        """The same with what has been taken in so far, for one more model."""
        other = copy.copy(self)
        other.trials = [trial.fork() for trial in self.trials]
        other.as_stored = other.trials[0]
        return other

    def take(self, role: str, source: ModelSource | None) -> None:
        """Gather all of one model's numbers; whatever goes wrong there ends in a verdict that is no PASS."""
        if source is None:
            for trial in self.trials:
                trial.troubles[role] = f"{ROLES[role]} was not given"
            return
        lm = opened(source)
        for trial in self.trials:
            if trial.stressor and role == "before":  # the positive control is the model as it was
                trial.evidence |= self.as_stored.evidence
                trial.troubles |= self.as_stored.troubles
                continue
            self.say(f"reading {ROLES[role]}{f', {trial.stressor.id}' if trial.stressor else ''}")
            try:
                trial.evidence[role] = self._gather(self._stressed(lm, trial), trial)
            except Exception as error:
                trial.troubles[role] = f"{ROLES[role]} could not be measured ({in_words(error)})"

    def _stressed(self, lm: LanguageModel, trial: Trial) -> LanguageModel:
        if trial.stressor is None:
            return lm
        dense = opened(self.dense) if self.dense is not None and trial.stressor.needs_dense else None
        with trial.meter.part(_STRESSING):
            return trial.stressor.apply(lm, Surroundings(self.sets.forget, dense, self.seed))

    def _gather(self, lm: LanguageModel, trial: Trial) -> Evidence:
        names = {name for check in trial.checks for name in check.sets} if trial.stressor else set(SETS)
        needs = [check.needs for check in trial.checks]
        if not trial.stressor:
            needs += [metric.needs for metric in self.policy.metrics]
        parts: frozenset[Part] = frozenset().union(*needs)
        extras = {check.extra for check in trial.checks}
        readings = {}
        for name in (name for name in SETS if name in names):
            with trial.meter.part(name, lm.model):
                wanted = parts if name == "forget" else parts - {"forms"}  # nobody looks at them elsewhere
                readings[name] = read(lm, self.sets[name], wanted)
        with trial.meter.part("decoys", lm.model):
            decoys = self._decoys(lm) if "decoys" in extras else ()
        with trial.meter.part("samples", lm.model):
            leaks = self._leaks(lm) if "samples" in extras else None
        exact = tuple(secret.exact for secret in self.secrets) if decoys else ()
        return Evidence(readings, decoys, exact, leaks)

    def _leaks(self, lm: LanguageModel) -> tuple[int, int]:
        """(samples that hold a secret, samples)."""
        # The shortest rows to keep serve as examples: a prompt must not outgrow the model's context.
        shots = sorted(self.sets.retain, key=lambda row: (len(row["question"] + row["answer"]), row["record_id"]))
        return count_leaks(
            lm,
            self.sets.forget,
            self.secrets,
            num_samples=self.policy.num_samples,
            seed=self.seed,
            shots=shots[:_NUM_SHOTS],
        )

    def _decoys(self, lm: LanguageModel) -> tuple[np.ndarray, ...]:
        """Per secret the log-probability of the true answer and of each decoy."""
        if not self.secrets:
            return ()
        rows = [self.sets.forget[secret.row] for secret in self.secrets]
        texts = [(row["answer"], *secret.decoys) for row, secret in zip(rows, self.secrets, strict=True)]
        flat = [{**row, "answer": text} for row, choices in zip(rows, texts, strict=True) for text in choices]
        logps = sum_logps(lm, lm.encode(flat))
        return tuple(np.split(logps, np.cumsum([len(choices) for choices in texts])[:-1]))

    def refuse_mixed_tokens(self) -> None:
        """Models that read the same rows as other tokens cannot be compared."""
        if len({e.readings["forget"].encoding for e in self.as_stored.evidence.values()}) > 1:
            trouble = "the models do not read the same rows as the same tokens"
            for trial in self.trials:
                trial.troubles |= dict.fromkeys(trial.evidence, trouble)
                trial.evidence.clear()

    def findings(self) -> list[Finding]:
        """All findings. Failures are Holm-adjusted over the battery, so that many checks raise no false alarms."""
        blind_auc, blind_void = blind_baseline(
            self.sets.forget, self.sets.holdout, limit=self.policy.blind_limit, seed=self.seed
        )
        alpha = 1.0 - self.policy.confidence
        measured: list[tuple[Trial, Check, dict[str, Measure], str]] = []
        for trial in [*self.trials, *self.left_out]:
            bench = Bench(
                before=trial.evidence.get("before"),
                reference=trial.evidence.get("reference"),
                reference_as_stored=self.as_stored.evidence.get("reference"),
                taught=trial.stressor is not None and trial.stressor.teaches,
                alpha=alpha,
                seed=self.seed,
                blind_auc=blind_auc,
                blind_void=blind_void,
            )
            for check in trial.checks:
                with trial.meter.part(f"judging {check.id}"):
                    measured.append((trial, check, *self._measure(trial, check, bench)))
        adjusted = iter(holm([measures["unlearned"].p for _, _, measures, _ in measured if "unlearned" in measures]))
        return [
            finding_of(
                check,
                measures,
                stressor=trial.stressor,
                trouble=trouble,
                p=next(adjusted) if "unlearned" in measures else 1.0,
                alpha=alpha,
                cost=trial.cost(check),
            )
            for trial, check, measures, trouble in measured
        ]

    def _measure(self, trial: Trial, check: Check, bench: Bench) -> tuple[dict[str, Measure], str]:
        """The check's measure of every model there is, and what kept it from being taken."""
        for role in ("unlearned", *sorted(check.uses)):
            if role not in trial.evidence:
                return {}, f"not run: {trial.troubles[role]}"
        least = {"forget": self.policy.min_forget_records, "holdout": self.policy.min_holdout_records}
        for name in check.sets:
            if len(self.sets[name]) < least.get(name, 1):
                return {}, f"not run: {len(self.sets[name])} {name} records, the policy asks for {least[name]}"
        measures: dict[str, Measure] = {}
        for role in (role for role in ROLES if role in trial.evidence):
            try:
                measures[role] = check.measure(trial.evidence[role], bench)
            except NoPowerError as error:
                return measures, str(error)
            except Exception as error:  # a check that breaks is a check that did not pass
                return measures, f"the check broke on {ROLES[role]} ({in_words(error)})"
        return measures, ""


def in_words(error: Exception) -> str:
    """Our own messages quote no text of a row; anyone else's might."""
    return str(error) if isinstance(error, SauError) else type(error).__name__
