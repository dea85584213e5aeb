"""Verification of the packaged checkpoint, with the parent and the retrained model beside it."""

import json
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from sau.checkpoint.digests import check_distinct
from sau.checkpoint.manifest import SparseCheckpoint, check_files, read_manifest
from sau.checkpoint.sparse import open_sparse
from sau.data.records import Row
from sau.data.sets import Sets, by_person
from sau.data.vault import reading_with
from sau.errors import CheckpointError, DataError, WorkspaceError
from sau.models.dense import open_dense
from sau.models.language_model import PROMPT, LanguageModel, seeded
from sau.params import Params, load_params
from sau.stages import BASE, CHECKPOINT, PARENT, read_split
from sau.training.finetune import adapted
from sau.verify import Controls, Verification, load_policy
from sau.verify import verify as run_battery
from sau.verify.checks.base import NothingToShowError
from sau.verify.evidence.readings import ModelSource
from sau.verify.report.answers import answers
from sau.verify.report.page import render_html, render_markdown
from tasks.engines.keys import vault
from tasks.engines.orchestration import task
from tasks.engines.people import person_of
from tasks.engines.tracking import Tracking
from tasks.engines.workspace import Attempt, Workspace
from tasks.versions.expiry import expired
from tasks.versions.origin import dense_pin
from tasks.versions.record import VersionRecord
from tasks.versions.registry import Registry

log = logging.getLogger("sau")

RECORD = "verification.json"
_DENSE_PLACE = "stress/dense"  # a folder of its own: the version's commit takes pointers of the top folder only


class Judged(BaseModel):
    """What registering has to know of a verdict.

    Attributes:
        weights_digest: what the verdict speaks of.
        manifest_digest: of every byte of the checkpoint that was judged.
        judged_against: the null, in words.
        people: by request id, the verdict on each of several people who asked together.
        reference: the retrained version beside it, "" where there was none.
    """

    model_config = ConfigDict(frozen=True)

    verdict: str
    policy: str
    policy_digest: str
    weights_digest: str
    manifest_digest: str
    judged_against: str
    people: dict[str, str] = {}
    reference: str


@task(name="verify", task_run_name="verify {attempt.line}")
def verify(
    attempt: Attempt,
    *,
    request_ids: tuple[str, ...],
    reference: VersionRecord | None,
    show_answers: bool = False,
) -> Judged:
    """Judge the attempt's stored checkpoint by the policy its params.yaml names.

    The whole record and the report, as a page and as Markdown, are artifacts of the request's run.

    Args:
        reference: the retrained version, None where there is none: a policy that reads checks against one then answers
            INCONCLUSIVE; for another it is one control more.
        show_answers: what the models answer goes into the report, where all rows are of the demo people.

    Raises:
        CheckpointError: a checkpoint is damaged, or changed while it was verified.
        ModelError: the reference has the parent's weights.
    """
    tracking, ws = Tracking(), attempt.workspace
    log.info("verify")
    params = load_params(ws.path / "params.yaml")
    with reading_with(vault()):
        sets = sampled(read_split(ws.path, "judge"), params)
    model, before = (opener(ws.path / folder, params) for folder in (CHECKPOINT, PARENT))
    retrained = opener(Registry(tracking).download(reference), params) if reference else None
    manifest = check_files(ws.path / CHECKPOINT)
    if reference:
        parent = read_manifest(ws.path / PARENT).weights_digest
        check_distinct({"before": parent, "reference": reference.weights_digest})
    with (
        tracking.run(attempt.line, "verify", parent=attempt.run_id) as step,
        seeded(params.seed, params.num_threads),
    ):
        verification = run_battery(
            model=model,
            sets=sets,
            controls=Controls(
                before, retrained, _dense_opener(tracking, ws, attempt.line, params), base_opener(ws.path, params, sets)
            ),
            policy=load_policy(params.verify.policy, num_stressors=params.verify.num_stressors),
            weights_digest=manifest.weights_digest,
            seed=params.seed,
            labels=_labels(request_ids),
            progress=lambda text: log.debug("verify %s", text),
        )
        if check_files(ws.path / CHECKPOINT).manifest_digest != manifest.manifest_digest:
            raise CheckpointError(f"{attempt.line}: the checkpoint changed while it was verified")
        models = {"before": before, "after": model, "reference": retrained}
        shown = _answers(models, sets) if show_answers else None
        _record(tracking, attempt, step, verification, manifest, request_ids, shown)
    log.info("verdict %s", verification.verdict)
    return Judged(
        verdict=verification.verdict,
        policy=verification.policy,
        policy_digest=verification.policy_digest,
        weights_digest=verification.weights_digest,
        manifest_digest=manifest.manifest_digest,
        judged_against=verification.judged_against,
        people={person.label: person.verdict for person in verification.people},
        reference=reference.tag if reference else "",
    )


def _labels(request_ids: tuple[str, ...]) -> dict[str, str]:
    """Request ids by internal id of the person."""
    return {person_of(request_id): request_id for request_id in request_ids}


def sampled(sets: Sets, params: Params) -> Sets:
    """The sets as the parameters bound them, by a seeded choice.

    Of those who stay, some people, each whole, and those first whom unlearning was not shown; of those who judge,
    everybody, with the same number of rows at most.
    """
    rng, most = random.Random(params.seed), params.verify
    people = rng.sample(groups := by_person(sets.retain), len(groups))
    people.sort(key=lambda rows: rows[0]["subject_id"] not in sets.spared)
    kept: list[Row] = []
    for rows in people:
        if len(kept) + len(rows) <= most.max_retain_rows or not kept:
            kept += rows[: most.max_retain_rows]
    judges = sets.holdout
    if len(judges) > most.max_holdout_rows:
        groups = by_person(judges)
        each = max(most.max_holdout_rows // len(groups), 1)
        judges = [row for rows in groups for row in rng.sample(rows, min(len(rows), each))]
    return replace(sets, retain=kept, holdout=judges)


def base_opener(folder: Path, params: Params, sets: Sets) -> Callable[[], LanguageModel] | None:
    """The model from before any training on this data, adapted to rows to keep as unlearning's parameters say; None
    where it is not known.

    Args:
        folder: an attempt's, with the base model and the parent in it.
    """

    if not (folder / BASE).is_dir():
        return None

    def opened() -> LanguageModel:
        base = params.model.put(open_dense(folder / BASE, prompt=read_manifest(folder / PARENT).prompt))
        if not params.unlearn.adapt:
            return base
        return adapted(
            base, base.encode(sets.retain), params.unlearn.adapt, seed=params.seed, num_threads=params.num_threads
        )

    return opened


def opener(folder: Path, params: Params) -> Callable[[], LanguageModel]:
    """What opens a sparse checkpoint where the parameters say."""
    return lambda: params.model.put(open_sparse(folder))


def _dense_opener(tracking: Tracking, ws: Workspace, line: str, params: Params) -> Callable[[], LanguageModel]:
    """The dense model that the line's first version was pruned from; DVC brings it when a stressor asks for it.

    Raises (when asked):
        NothingToShowError: it is not known, or a purge has removed the first version, and with it the dense model.
        WorkspaceError: its bytes are in neither cache nor remote.
    """

    @cache
    def folder() -> Path:
        tag = Registry(tracking).all(line)[0].tag
        if gone := expired(ws.settings.root, tag):
            raise NothingToShowError(f"nobody can fill the holes from the dense parent: {gone.words}")
        if (pin := dense_pin(tag)) is None:
            raise NothingToShowError(f"the dense model that {tag} was pruned from is not known")
        try:
            ws.point(_DENSE_PLACE, pin)
        except WorkspaceError:
            raise WorkspaceError(f"{tag}: its dense model is in neither DVC's cache nor its remote") from None
        return ws.path / _DENSE_PLACE

    return lambda: params.model.put(open_dense(folder(), prompt=PROMPT))


def _record(
    tracking: Tracking,
    attempt: Attempt,
    step: str,
    verification: Verification,
    manifest: SparseCheckpoint,
    request_ids: tuple[str, ...],
    shown: list[dict[str, str]] | None,
) -> None:
    """The verdict's numbers, record and report on MLflow's runs."""
    record = verification.to_json()
    numbers = {finding.id: finding.value for finding in verification.checks if finding.value is not None}
    tracking.metrics(step, numbers | {"rows_read": verification.rows_read, "cpu_seconds": verification.seconds})
    tracking.metrics(attempt.run_id, _by_role(verification))
    said = {key: record[key] for key in ("verdict", "policy", "policy_digest", "null", "weights_digest")}
    tracking.tags(attempt.run_id, said | {"judged_against": verification.judged_against})
    tracking.text(attempt.run_id, json.dumps(record, indent=1), RECORD)
    page: dict[str, Any] = {
        "title": f"{attempt.line}: forgetting verified",
        "facts": {
            "Requests": ", ".join(request_ids),
            "Model line": attempt.line,
            "Mask digest": manifest.mask_digest,
            "Sparsity": f"{manifest.sparsity:.4%} of {manifest.covered:.0%} of the model ({manifest.structure})",
        },
        "unlearning": json.loads((attempt.workspace.path / "metrics" / "unlearn.json").read_text(encoding="utf-8")),
        "answers": shown,
    }
    tracking.text(attempt.run_id, render_html(verification, **page), "report.html")
    tracking.text(attempt.run_id, render_markdown(verification, **page), "report.md")


def _by_role(verification: Verification) -> dict[str, float]:
    """The table of metrics under short names, `unlearned/forget_probability`: MLflow's page groups what is before the
    slash."""
    return {
        f"{role}/{metric if group in ('membership', 'model') else f'{group}_{metric}'}": value
        for role, groups in verification.table.items()
        for group, metrics in groups.items()
        for metric, value in metrics.items()
        if value is not None
    }


def _answers(models: Mapping[str, ModelSource | None], sets: Sets) -> list[dict[str, str]]:
    try:
        return answers(models, {"forget": sets.forget, "retain": sets.retain})
    except DataError as error:
        log.warning("%s", error)
        return []
