"""The battery: every check of a policy, with its controls, and the verdict that follows.

A verdict says: these checks ran on the model with this digest and found no residual signal above these margins.
Nobody can prove from weights alone that something is erased. What did not run, is not finite, or had no power is
never a PASS.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sau.data.sets import SETS, Sets
from sau.models.ranks import ALONE, Ranks
from sau.registry import discover
from sau.verify.evidence.cache import Cache
from sau.verify.evidence.readings import ModelSource
from sau.verify.findings import sorted_scores, table_of
from sau.verify.policy import Policy
from sau.verify.record import LIMITS, ROLES, PersonVerdict, Verification
from sau.verify.stressors.base import PACKAGE as STRESSORS
from sau.verify.stressors.base import Stressor
from sau.verify.trial import Controls, Run
from sau.verify.verdict import conclude, together


def verify(
    *,
    model: ModelSource,
    sets: Sets,
    controls: Controls,
    policy: Policy,
    weights_digest: str,
    seed: int = 0,
    labels: Mapping[str, str] | None = None,
    progress: Callable[[str], None] | None = None,
    cache: Path | None = None,
    ranks: Ranks = ALONE,
) -> Verification:
    """Run a policy's battery on an unlearned model.

    Args:
        model: the unlearned model, or a function that opens it.
        sets, controls: the rows, and the models it is read against.
        weights_digest: what the verdict will speak of.
        seed: of resampling, decoys, sampling and relearning.
        labels: of people who ask together, by subject id: what the record calls them; by default numbers.
        progress: told what is being done, never any text of a row.
        cache: a folder where readings of people the model never saw are kept for the next verification; None: nowhere.
        ranks: processes that verify together, all called alike: rows are scored in parts, and each has the verdict.

    Returns:
        The verdict with everything it rests on. REFUSED where there is nothing to forget or keep, or a forget record
        is also in another set; a broken check or model is INCONCLUSIVE. What a source raises while a model is opened
        is not caught: a damaged checkpoint has no verdict.
    """
    (result,) = verify_each(
        candidates=[(model, weights_digest)],
        sets=sets,
        controls=controls,
        policy=policy,
        seed=seed,
        labels=labels,
        progress=progress,
        cache=cache,
        ranks=ranks,
    )
    return result


def verify_each(
    *,
    candidates: Iterable[tuple[ModelSource, str]],
    sets: Sets,
    controls: Controls,
    policy: Policy,
    seed: int = 0,
    labels: Mapping[str, str] | None = None,
    progress: Callable[[str], None] | None = None,
    cache: Path | None = None,
    ranks: Ranks = ALONE,
) -> Iterator[Verification]:
    """`verify` for several unlearned models, (model, its digest), beside the same two controls, which are read once.

    Every verdict is the one that `verify` alone would give; the cost of each counts the controls.
    """
    started = time.process_time()
    say = progress or (lambda message: None)
    frame: dict[str, Any] = {
        "policy": policy.name,
        "policy_version": policy.version,
        "policy_digest": policy.digest,
        "confidence": policy.confidence,
        "seed": seed,
        "null": policy.against,
        "num_records": {name: len(rows) for name, rows in sets.items()},
        "num_people": {name: len({row["subject_id"] for row in rows} - {None}) for name, rows in sets.items()},
    }
    limits = [*LIMITS[policy.against], *_not_run(policy)]
    if refusals := _refusals(sets):
        for _, digest in candidates:
            yield Verification(
                verdict="REFUSED",
                reasons=refusals,
                checks=[],
                table={},
                scores={},
                limits=limits,
                weights_digest=digest,
                **frame,
            )
        return

    beside = Run(policy, sets, seed, controls, say, Cache(cache), ranks)
    beside.take("before", controls.before)
    beside.take("reference", controls.reference)
    beside.take_base(controls.base)
    shared = time.process_time() - started
    for model, digest in candidates:
        started = time.process_time()
        run = beside.fork()
        run.take("unlearned", model)
        run.refuse_mixed_tokens()
        run.sum_costs()
        say("judging")
        findings = run.findings()
        people = list(_alone(run, labels or {})) if policy.against == "population" else []
        verdict, reasons = together(*conclude(findings), {person.label: person.verdict for person in people})
        seconds = sum(ranks.merged({ranks.rank: shared + time.process_time() - started}).values())
        evidence = {role: found for role, found in run.as_stored.evidence.items() if role in ROLES}
        yield Verification(
            verdict=verdict,
            reasons=reasons,
            checks=findings,
            table=table_of(policy.metrics, evidence),
            people=people,
            limits=[*limits, *_drift(run)],
            scores={role: {name: sorted_scores(e, name) for name in SETS} for role, e in evidence.items()},
            rows_read=sum(trial.meter.total.rows for trial in run.trials),
            seconds=round(seconds, 3),
            weights_digest=digest,
            **frame,
        )


def _alone(run: Run, labels: Mapping[str, str]) -> Iterator[PersonVerdict]:
    """The verdict on each of several people who asked together, as if nobody else had."""
    for number, (subject, alone) in enumerate(run.each_person(), start=1):
        findings = alone.findings()
        verdict, reasons = conclude(findings)
        yield PersonVerdict(
            label=labels.get(subject, f"person {number}"),
            num_records=len(alone.people["forget"]),
            verdict=verdict,
            reasons=reasons,
            checks=findings,
        )


def _drift(run: Run) -> Iterator[str]:
    """Whether words alone tell the forget rows from those of the people they are judged beside."""
    auc, void = run.blind
    if void and run.null == "population":
        yield (
            f"Words alone, without any model, tell the records from those of the people the model never saw (AUC "
            f"{auc:.2f}): these people are unlike the one who asked, and the numbers may be off to either side."
        )


def _not_run(policy: Policy) -> Iterator[str]:
    """The stressors that do not run, said aloud."""
    if beyond := [stressor.id for stressor in policy.stressors_left_out]:
        yield f"Stressors beyond the budget of {policy.num_stressors}, not run: {', '.join(beyond)}."
    known = {stressor.name for stressor in policy.stressors}
    if absent := [name for name in discover(Stressor, STRESSORS) if name not in known]:
        yield f"Stressors that are not in this policy: {', '.join(absent)}."


def _refusals(sets: Sets) -> list[str]:
    """Why this request must not be run, in counts."""
    reasons = [f"there is no {name} record" for name in ("forget", "retain") if not sets[name]]
    ids = {name: {row["record_id"] for row in rows} for name, rows in sets.items()}
    for other in ("retain", "holdout"):
        if both := len(ids["forget"] & ids[other]):
            reasons.append(f"{both} records are both in the forget and the {other} set")
    return reasons
