"""The battery: every check of a policy, with its controls, and the verdict that follows.

A verdict says: these checks ran on the model with this digest and found no residual signal above these margins.
Nobody can prove from weights alone that something is erased. What did not run, is not finite, or had no power is
never a PASS.
"""

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sau.data.records import Row
from sau.errors import SauError
from sau.models import LanguageModel
from sau.registry import discover
from sau.verify.blind import blind_baseline
from sau.verify.check import Bench, Check, Evidence, Measure, NoPowerError, Verdict
from sau.verify.cost import Cost, Meter
from sau.verify.decoys import find_secrets
from sau.verify.metric import MembershipMetric, Metric, ModelMetric, Readings, RecordMetric, token_means
from sau.verify.policy import Policy
from sau.verify.readings import ModelSource, Part, opened, read, sum_logps
from sau.verify.sampling import count_leaks
from sau.verify.stats import holm
from sau.verify.stressor import PACKAGE as STRESSORS
from sau.verify.stressor import Stressor, Surroundings
from sau.verify.verdict import conclude, judge
from sau.verify.verification import Finding, Verification

SETS = ("forget", "retain", "holdout")
_STRESSING = "stressing"
_NUM_SHOTS = 2
TableRow = dict[str, dict[str, float | None]]
Table = dict[str, TableRow]
ROLES = {
    "before": "the model before unlearning",
    "reference": "the model that never saw the records",
    "unlearned": "the unlearned model",
}
LIMITS = (
    "A verdict speaks of the checks that ran, on the records given. It does not prove that nothing is left.",
    "Records of one person are not independent of each other: intervals are somewhat too narrow.",
    "Backups, logs and copies of the model outside this pipeline are not covered.",
)


@dataclass
class _Trial:
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

    def fork(self) -> "_Trial":
        """The same so far; what either takes in from here on is its own."""
        return _Trial(
            self.stressor, self.checks, dict(self.evidence), dict(self.troubles), Meter(dict(self.meter.parts))
        )


def verify(
    *,
    model: ModelSource,
    forget: Sequence[Row],
    retain: Sequence[Row],
    holdout: Sequence[Row],
    before: ModelSource | None = None,
    reference: ModelSource | None = None,
    dense: ModelSource | None = None,
    policy: Policy,
    model_digest: str,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Verification:
    """Run a policy's battery on an unlearned model.

    Args:
        model, before, reference: the unlearned model, the one before, and one that never saw the forget rows but was
            otherwise trained alike (a base model, which knows none of the data, would be stricter than fair); each may
            be a function that opens it, so that only one is in memory at a time.
        dense: the dense model that sparse ones come from, for the stressor `densify`; opened only where that runs, and
            where it cannot be, the verdict says so.
        forget, retain, holdout: the rows to be forgotten, those to be kept, and rows no model was trained on.
        model_digest: what the verdict will speak of.
        seed: of resampling, decoys, sampling and relearning.
        progress: told what is being done, never any text of a row.

    Returns:
        The verdict with everything it rests on. REFUSED where there is nothing to forget or keep, or a forget record
        is also in another set; a broken check or model is INCONCLUSIVE. What a source raises while a model is opened
        is not caught: a damaged checkpoint has no verdict.
    """
    (result,) = verify_each(
        candidates=[(model, model_digest)],
        forget=forget,
        retain=retain,
        holdout=holdout,
        before=before,
        reference=reference,
        dense=dense,
        policy=policy,
        seed=seed,
        progress=progress,
    )
    return result


def verify_each(
    *,
    candidates: Iterable[tuple[ModelSource, str]],
    forget: Sequence[Row],
    retain: Sequence[Row],
    holdout: Sequence[Row],
    before: ModelSource | None = None,
    reference: ModelSource | None = None,
    dense: ModelSource | None = None,
    policy: Policy,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Iterator[Verification]:
    """`verify` for several unlearned models, (model, its digest), beside the same two controls, which are read once.

    Every verdict is the one that `verify` alone would give; the cost of each counts the controls.
    """
    started = time.process_time()
    say = progress or (lambda message: None)
    sets = {"forget": list(forget), "retain": list(retain), "holdout": list(holdout)}
    frame: dict[str, Any] = {
        "policy": policy.name,
        "policy_version": policy.version,
        "policy_digest": policy.digest,
        "confidence": policy.confidence,
        "seed": seed,
        "num_records": {name: len(rows) for name, rows in sets.items()},
        "limits": [*LIMITS, *_not_run(policy)],
    }
    if refusals := _refusals(sets):
        for _, digest in candidates:
            yield Verification(
                verdict="REFUSED", reasons=refusals, checks=[], table={}, scores={}, model_digest=digest, **frame
            )
        return

    controls = _Run(policy, sets, seed, dense, say)
    controls.take("before", before)
    controls.take("reference", reference)
    shared = time.process_time() - started
    for model, digest in candidates:
        started = time.process_time()
        run = controls.fork()
        run.take("unlearned", model)
        run.refuse_mixed_tokens()
        say("judging")
        findings = run.findings()
        verdict, reasons = conclude(findings)
        evidence = run.as_stored.evidence
        yield Verification(
            verdict=verdict,
            reasons=reasons,
            checks=findings,
            table=_table(policy.metrics, evidence),
            scores={role: {name: _scores(e, name) for name in SETS} for role, e in evidence.items()},
            rows_read=sum(trial.meter.total.rows for trial in run.trials),
            seconds=round(shared + time.process_time() - started, 3),
            model_digest=digest,
            **frame,
        )


class _Run:
    """One verification under way: takes in one model after the other, then judges."""

    def __init__(
        self,
        policy: Policy,
        sets: Mapping[str, list[Row]],
        seed: int,
        dense: ModelSource | None,
        say: Callable[[str], None],
    ) -> None:
        self.policy, self.sets, self.seed, self.dense, self.say = policy, sets, seed, dense, say
        self.secrets = find_secrets(*(sets[name] for name in SETS), num_decoys=policy.num_decoys, seed=seed)
        if len(self.secrets) > policy.max_decoy_records:
            chosen = np.random.default_rng(seed).choice(len(self.secrets), policy.max_decoy_records, replace=False)
            self.secrets = [self.secrets[i] for i in sorted(chosen)]
        repeated = tuple(check for check in policy.checks if check.id in policy.stressed_checks)
        self.as_stored = _Trial(None, policy.checks)
        self.trials = [self.as_stored, *(_Trial(stressor, repeated) for stressor in policy.stressors_run)]
        beyond = {"unlearned": f"beyond the budget of {policy.num_stressors} stressors"}
        self.left_out = [_Trial(s, repeated, troubles=beyond) for s in policy.stressors_left_out if s.mandatory]

    def fork(self) -> "_Run":
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
                trial.troubles[role] = f"{ROLES[role]} could not be measured ({_words(error)})"

    def _stressed(self, lm: LanguageModel, trial: _Trial) -> LanguageModel:
        if trial.stressor is None:
            return lm
        dense = opened(self.dense) if self.dense is not None and trial.stressor.needs_dense else None
        with trial.meter.part(_STRESSING):
            return trial.stressor.apply(lm, Surroundings(self.sets["forget"], dense, self.seed))

    def _gather(self, lm: LanguageModel, trial: _Trial) -> Evidence:
        names = {name for check in trial.checks for name in check.sets} if trial.stressor else set(SETS)
        needs = [check.needs for check in trial.checks]
        if not trial.stressor:
            needs += [metric.needs for metric in self.policy.metrics]
        parts: frozenset[Part] = frozenset().union(*needs)
        extras = {check.extra for check in trial.checks}
        readings = {}
        for name in (name for name in SETS if name in names):
            with trial.meter.part(name, lm.model):
                readings[name] = read(lm, self.sets[name], parts)
        with trial.meter.part("decoys", lm.model):
            decoys = self._decoys(lm) if "decoys" in extras else ()
        with trial.meter.part("samples", lm.model):
            leaks = self._leaks(lm) if "samples" in extras else None
        exact = tuple(secret.exact for secret in self.secrets) if decoys else ()
        return Evidence(readings, decoys, exact, leaks)

    def _leaks(self, lm: LanguageModel) -> tuple[int, int]:
        """(samples that hold a secret, samples)."""
        # The shortest rows to keep serve as examples: a prompt must not outgrow the model's context.
        shots = sorted(self.sets["retain"], key=lambda row: (len(row["question"] + row["answer"]), row["record_id"]))
        return count_leaks(
            lm,
            self.sets["forget"],
            self.secrets,
            num_samples=self.policy.num_samples,
            seed=self.seed,
            shots=shots[:_NUM_SHOTS],
        )

    def _decoys(self, lm: LanguageModel) -> tuple[np.ndarray, ...]:
        """Per secret the log-probability of the true answer and of each decoy."""
        if not self.secrets:
            return ()
        rows = [self.sets["forget"][secret.row] for secret in self.secrets]
        texts = [(row["answer"], *secret.decoys) for row, secret in zip(rows, self.secrets, strict=True)]
        flat = [{**row, "answer": text} for row, its in zip(rows, texts, strict=True) for text in its]
        logps = sum_logps(lm, lm.encode(flat))
        return tuple(np.split(logps, np.cumsum([len(its) for its in texts])[:-1]))

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
            self.sets["forget"], self.sets["holdout"], limit=self.policy.blind_limit, seed=self.seed
        )
        alpha = 1.0 - self.policy.confidence
        measured: list[tuple[_Trial, Check, dict[str, Measure], str]] = []
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
            _finding(trial, check, measures, trouble, next(adjusted) if "unlearned" in measures else 1.0, alpha)
            for trial, check, measures, trouble in measured
        ]

    def _measure(self, trial: _Trial, check: Check, bench: Bench) -> tuple[dict[str, Measure], str]:
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
                return measures, f"the check broke on {ROLES[role]} ({_words(error)})"
        return measures, ""


def _not_run(policy: Policy) -> Iterator[str]:
    """The stressors that do not run, said aloud."""
    if beyond := [stressor.id for stressor in policy.stressors_left_out]:
        yield f"Stressors beyond the budget of {policy.num_stressors}, not run: {', '.join(beyond)}."
    known = {stressor.name for stressor in policy.stressors}
    if absent := [name for name in discover(Stressor, STRESSORS) if name not in known]:
        yield f"Stressors that are not in this policy: {', '.join(absent)}."


def _refusals(sets: Mapping[str, Sequence[Row]]) -> list[str]:
    """Why this request must not be run, in counts."""
    reasons = [f"there is no {name} record" for name in ("forget", "retain") if not sets[name]]
    ids = {name: {row["record_id"] for row in rows} for name, rows in sets.items()}
    for other in ("retain", "holdout"):
        if both := len(ids["forget"] & ids[other]):
            reasons.append(f"{both} records are both in the forget and the {other} set")
    return reasons


def _words(error: Exception) -> str:
    """Our own messages quote no text of a row; anyone else's might."""
    return str(error) if isinstance(error, SauError) else type(error).__name__


def _finding(
    trial: _Trial, check: Check, measures: Mapping[str, Measure], trouble: str, p: float, alpha: float
) -> Finding:
    own = measures.get("unlearned")
    verdict: Verdict = "INCONCLUSIVE"
    reason = trouble
    if not trouble:
        verdict, reason = judge(check, measures, p, alpha)
    stressor, cost = trial.stressor, trial.cost(check)
    return Finding(
        id=f"{check.id}/{stressor.id}" if stressor else check.id,
        title=f"{check.label} {stressor.title} ({stressor.id})" if stressor else check.label,
        question=check.question,
        mandatory=check.mandatory and (stressor is None or stressor.mandatory),
        n=own.n if own else 0,
        value=_number(own.value) if own else None,
        interval=_interval(own.interval) if own else None,
        before=_number(measures["before"].value) if "before" in measures else None,
        never_saw_it=_number(measures["reference"].value) if "reference" in measures else None,
        margin=(_number(own.allowed[0]), _number(own.allowed[1])) if own else None,
        p=_number(p) if own else None,
        power=_number(own.power) if own else None,
        verdict=verdict,
        reason=reason,
        rows_read=cost.rows,
        seconds=round(cost.seconds, 3),
    )


def _number(value: float | None) -> float | None:
    """Rounded for people; None where it is not a number."""
    return round(float(value), 5) if value is not None and np.isfinite(value) else None


def _interval(interval: tuple[float, float]) -> tuple[float, float] | None:
    low, high = map(_number, interval)
    return None if low is None or high is None else (low, high)


def _scores(evidence: Evidence, set_name: str) -> list[float]:
    """Sorted, so that a number no longer points at a record."""
    return [round(float(v), 4) for v in np.sort(token_means(evidence.readings[set_name])) if np.isfinite(v)]


def _table(metrics: Sequence[Metric], evidence: Mapping[str, Evidence]) -> Table:
    """Every metric of every model; null where it cannot be had (no reference, no false answers, not finite)."""
    return {role: _row(metrics, its.readings, evidence) for role, its in evidence.items()}


def _row(metrics: Sequence[Metric], readings: Readings, evidence: Mapping[str, Evidence]) -> TableRow:
    row: TableRow = {name: {} for name in (*SETS, "membership", "model")}

    def others(role: str | None) -> Readings | None:
        return evidence[role].readings if role and role in evidence else None

    for metric in metrics:
        if isinstance(metric, RecordMetric):
            for name in SETS:
                row[name][metric.name] = _or_none(metric.value, readings[name], name)
        elif isinstance(metric, MembershipMetric):
            row["membership"][metric.name] = _or_none(metric.value, readings, others("reference"))
        elif isinstance(metric, ModelMetric):
            row["model"][metric.name] = _or_none(metric.value, readings, others(metric.against))
    return row


def _or_none(compute: Callable[..., float], *args: object) -> float | None:
    try:
        return _number(compute(*args))
    except SauError:
        return None
