"""A verification under way: takes in one model after the other, under every stressor, then judges."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from sau.data.sets import Sets, numbered
from sau.errors import SauError
from sau.models.language_model import LanguageModel
from sau.models.ranks import ALONE, Ranks, set_ranks
from sau.verify.checks.base import Bench, Check, Evidence, Measure, NoPowerError, NothingToShowError, Null
from sau.verify.evidence.blind import blind_baseline
from sau.verify.evidence.cache import Cache
from sau.verify.evidence.cost import Cost, Meter
from sau.verify.evidence.directions import share_in_few_directions
from sau.verify.evidence.readings import ModelSource, opened
from sau.verify.findings import finding_of
from sau.verify.gathering import Gathering
from sau.verify.policy import Policy
from sau.verify.record import ROLES, Finding
from sau.verify.stats import holm
from sau.verify.stressors.base import Stressor, Surroundings

_STRESSING = "stressing"


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
        base: a model that saw none of the forget and holdout rows, best adapted to the rows to keep: how hard it finds
            rows is taken off the scores of people. Only beside people whom the model never saw, and never needed.
    """

    before: ModelSource | None = None
    reference: ModelSource | None = None
    dense: ModelSource | None = None
    base: ModelSource | None = None


@dataclass
class Trial:
    """The models as they are (no stressor), or after one: whose evidence there is, why others' is missing, and what
    it cost; `void` says why it cannot be had at all, and then its checks do not apply."""

    stressor: Stressor | None
    checks: tuple[Check, ...]
    null: Null
    evidence: dict[str, Evidence] = field(default_factory=dict)
    troubles: dict[str, str] = field(default_factory=dict)
    void: str = ""
    meter: Meter = field(default_factory=Meter)

    def cost(self, check: Check) -> Cost:
        """Of the check's numbers of all models."""
        extra = [check.extra] if check.extra else []
        return self.meter.of(*check.reads(self.null), *extra, _STRESSING, f"judging {check.id}")

    def fork(self) -> "Trial":
        """The same so far; what either takes in from here on is its own."""
        return replace(
            self, evidence=dict(self.evidence), troubles=dict(self.troubles), meter=Meter(dict(self.meter.parts))
        )


class Run:
    """One verification under way: takes in one model after the other, then judges.

    On several processes each has every model whole; they read rows by parts, and do all else alike. An error that did
    not come to all of them, see `Ranks.alike`, is none of the models' and ends the verification.
    """

    def __init__(
        self,
        policy: Policy,
        sets: Sets,
        seed: int,
        controls: Controls,
        say: Callable[[str], None],
        cache: Cache,
        ranks: Ranks = ALONE,
    ) -> None:
        self.policy, self.sets, self.seed, self.controls, self.say = policy, sets, seed, controls, say
        self.null, self.ranks = policy.against, ranks
        self.gathering = Gathering(policy, sets, seed, compared=controls.reference is not None, cache=cache)
        self.people = {name: numbered(rows) for name, rows in sets.items()}
        repeated = tuple(check for check in policy.checks if check.id in policy.stressed_checks)
        self.as_stored = Trial(None, policy.checks, self.null)
        self.trials = [self.as_stored, *(Trial(stressor, repeated, self.null) for stressor in policy.stressors_run)]
        beyond = {"unlearned": f"beyond the budget of {policy.num_stressors} stressors"}
        self.left_out = [
            Trial(s, repeated, self.null, troubles=beyond) for s in policy.stressors_left_out if s.mandatory
        ]

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
                changed = self.ranks.alike(partial(self._stressed, lm, trial))
                set_ranks(changed.model, self.ranks)
                found = self.gathering.of(changed, trial.checks, trial.meter, stressor=trial.stressor)
                directions = self.ranks.alike(partial(self._directions, lm, role, trial))
                trial.evidence[role] = replace(found, directions=directions)
            except NothingToShowError as error:
                trial.void = str(error)
            except Exception as error:
                self._refuse_own(error)
                trial.troubles[role] = f"{ROLES[role]} could not be measured ({in_words(error)})"

    def _directions(self, lm: LanguageModel, role: str, trial: Trial) -> tuple[float, int] | None:
        """How the model differs from the one before, where a check looks at that."""
        if self.controls.before is None or not any(check.extra == "directions" for check in trial.checks):
            return None
        if role == "before":
            return 0.0, 0
        with trial.meter.part("directions"):
            return share_in_few_directions(lm, opened(self.controls.before))

    def take_base(self, source: ModelSource | None) -> None:
        """How hard a model that saw neither finds the forget rows and the strangers', under the null of people."""
        if source is None or self.null != "population":
            return
        self.say("reading the base model")
        try:
            lm = self.ranks.alike(lambda: opened(source))
            set_ranks(lm.model, self.ranks)
            self.as_stored.evidence["base"] = self.gathering.of_people(lm, self.as_stored.checks, self.as_stored.meter)
        except Exception as error:
            self._refuse_own(error)
            for trial in self.trials:
                trial.troubles["unlearned"] = f"the base model could not be measured ({in_words(error)})"

    def _refuse_own(self, error: Exception) -> None:
        """Raise what this process alone has met: the others have gone on."""
        if self.ranks.size > 1 and not isinstance(error, SauError):
            raise error

    def sum_costs(self) -> None:
        """What was taken in cost all processes together."""
        for trial in self.trials:
            trial.meter = trial.meter.over(self.ranks)

    def _stressed(self, lm: LanguageModel, trial: Trial) -> LanguageModel:
        if trial.stressor is None:
            return lm
        source = self.controls.dense
        dense = opened(source) if source is not None and trial.stressor.needs_dense else None
        with trial.meter.part(_STRESSING):
            sets, strangers = self.sets, self.gathering.strangers
            return trial.stressor.apply(lm, Surroundings(sets.forget, strangers, sets.retain, dense, self.seed))

    def refuse_mixed_tokens(self) -> None:
        """Models that read the same rows as other tokens cannot be compared."""
        if len({e.readings["forget"].encoding for e in self.as_stored.evidence.values()}) > 1:
            trouble = "the models do not read the same rows as the same tokens"
            for trial in self.trials:
                trial.troubles |= dict.fromkeys(trial.evidence, trouble)
                trial.evidence.clear()

    def each_person(self) -> Iterator[tuple[str, "Run"]]:
        """Of several people who asked: (id, the same evidence as if nobody else had); what was drawn of all of them
        together, samples, is left out."""
        ids = list(dict.fromkeys(row["subject_id"] for row in self.sets.forget))
        for number, subject in enumerate(ids if len(ids) > 1 else ()):
            rows = [i for i, person in enumerate(self.people["forget"]) if person == number]
            alone = self.fork()
            alone.people = {**self.people, "forget": [0] * len(rows)}
            for trial in alone.trials:
                trial.checks = tuple(check for check in trial.checks if check.extra != "samples")
                trial.evidence = {role: found.asked_by(rows) for role, found in trial.evidence.items()}
            yield subject, alone

    def findings(self) -> list[Finding]:
        """All findings. Failures are Holm-adjusted over the battery, so that many checks raise no false alarms."""
        blind_auc, blind_void = self.blind
        alpha = 1.0 - self.policy.confidence
        measured: list[tuple[Trial, Check, dict[str, Measure], str, bool]] = []
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
                null=self.null,
                people=self.people,
                spared=[i for i, row in enumerate(self.sets.retain) if row["subject_id"] in self.sets.spared],
                base=self.as_stored.evidence.get("base"),
                widest=self.policy.widest_margin,
                slack=self.policy.stressed_slack if trial.stressor else 0.0,
            )
            for check in trial.checks:
                with trial.meter.part(f"judging {check.id}"):
                    measured.append((trial, check, *self._measure(trial, check, bench)))
        adjusted = iter(holm([measures["unlearned"].p for _, _, measures, *_ in measured if "unlearned" in measures]))
        return [
            finding_of(
                check,
                measures,
                stressor=trial.stressor,
                trouble=trouble,
                applies=applies,
                p=next(adjusted) if "unlearned" in measures else 1.0,
                alpha=alpha,
                null=self.null,
                cost=trial.cost(check),
            )
            for trial, check, measures, trouble, applies in measured
        ]

    @cached_property
    def blind(self) -> tuple[float, bool]:
        """How well words alone tell the forget from the holdout rows, and whether beyond the policy's limit."""
        return blind_baseline(self.sets.forget, self.sets.holdout, limit=self.policy.blind_limit, seed=self.seed)

    def _measure(self, trial: Trial, check: Check, bench: Bench) -> tuple[dict[str, Measure], str, bool]:
        """The check's measure of every model there is, what kept it from being taken, and whether it applies."""
        if trial.void:
            return {}, trial.void, False
        for role in ("unlearned", *sorted(check.controls(self.null))):
            if role not in trial.evidence or (role == "unlearned" and role in trial.troubles):
                return {}, f"not run: {trial.troubles[role]}", True
        if lacking := self._lacking(check):
            return {}, f"not run: {lacking}", True
        measures: dict[str, Measure] = {}
        for role in ("unlearned", *(role for role in ROLES if role in trial.evidence and role != "unlearned")):
            try:
                measures[role] = check.measure(trial.evidence[role], bench)
            except NothingToShowError as error:
                return measures, str(error), False
            except NoPowerError as error:
                return measures, str(error), True
            except Exception as error:  # a check that breaks is a check that did not pass
                return measures, f"the check broke on {ROLES[role]} ({in_words(error)})", True
        return measures, "", True

    def _lacking(self, check: Check) -> str:
        """What the policy asks for and the sets do not have; empty where nothing lacks."""
        policy, names = self.policy, check.reads(self.null)
        if self.null == "population" and "holdout" in names:
            there, needed = len(set(self.people["holdout"])), policy.min_people
            if there < needed:
                return f"{there} people the model never saw, {needed - there} are missing: the policy asks for {needed}"
        of_records = {"forget": policy.min_forget_records, "holdout": policy.min_holdout_records}
        least = {} if self.null == "population" else of_records
        for name in names:
            if len(self.sets[name]) < least.get(name, 1):
                return f"{len(self.sets[name])} {name} records, the policy asks for {least[name]}"
        return ""


def in_words(error: Exception) -> str:
    """Our own messages quote no text of a row; anyone else's might."""
    return str(error) if isinstance(error, SauError) else type(error).__name__
