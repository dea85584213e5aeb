"""Verification of the packaged checkpoint, with the parent and the retrained model beside it."""

import json
import logging
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict

from sau.checkpoint.digests import check_distinct
from sau.checkpoint.manifest import SparseCheckpoint, check_files, read_manifest
from sau.data.sets import Sets
from sau.data.vault import reading_with
from sau.errors import CheckpointError, DataError, SauError, WorkspaceError
from sau.models.dense import open_dense
from sau.models.language_model import PROMPT, LanguageModel
from sau.params import Params, load_params
from sau.stages import CHECKPOINT, PARENT, read_split
from sau.verify import Controls, Verification, load_policy
from sau.verify.checks.base import NothingToShowError
from sau.verify.evidence.readings import ModelSource
from sau.verify.report.answers import answers
from sau.verify.report.page import render_html, render_markdown
from tasks.battery import base_opener, judged, opener, sampled
from tasks.earlier import judged_again
from tasks.engines.keys import vault
from tasks.engines.orchestration import task
from tasks.engines.people import person_of
from tasks.engines.tracking import Tracking
from tasks.engines.workspace import Attempt, Workspace
from tasks.versions.expiry import expired
from tasks.versions.lineage import failed_before
from tasks.versions.origin import dense_pin
from tasks.versions.record import VersionRecord
from tasks.versions.registry import Registry

log = logging.getLogger("sau")

RECORD = "verification.json"
_TRIED = "Tried again after {} did not pass: of several tries one passes by chance more easily."
_DENSE_PLACE = "stress/dense"  # a folder of its own: the version's commit takes pointers of the top folder only


class Judged(BaseModel):
    """What registering has to know of a verdict.

    Attributes:
        weights_digest: what the verdict speaks of.
        manifest_digest: of every byte of the checkpoint that was judged.
        null, judged_against: what it was read against, the second in words.
        reference: the retrained version beside it, "" where there was none.
    """

    model_config = ConfigDict(frozen=True)

    verdict: str
    policy: str
    policy_digest: str
    weights_digest: str
    manifest_digest: str
    null: str = ""
    judged_against: str
    reference: str


def verification_of(record: VersionRecord) -> Verification:
    """What a version's run says of its verdict.

    Raises:
        TrackingError: the run has no verification.
    """
    return Verification.model_validate_json(Tracking().artifact(record.judged_in, RECORD))


@task(name="verify", task_run_name="verify {attempt.line}")
def verify(
    attempt: Attempt,
    *,
    request_ids: tuple[str, ...],
    parent: int,
    reference: VersionRecord | None,
    show_answers: bool = False,
) -> Judged:
    """Judge the attempt's stored checkpoint by the policy its params.yaml names; who was forgotten earlier as well.

    The whole record and the report, as a page and as Markdown, are artifacts of the request's run.

    Args:
        parent: the number of the version it was made from.
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
        split = read_split(ws.path, "judge")
    sets = sampled(split, params)
    model, before = (opener(ws.path / folder, params) for folder in (CHECKPOINT, PARENT))
    retrained = opener(Registry(tracking).download(reference), params) if reference else None
    manifest = check_files(ws.path / CHECKPOINT)
    if reference:
        digest = read_manifest(ws.path / PARENT).weights_digest
        check_distinct({"before": digest, "reference": reference.weights_digest})
    with tracking.run(attempt.line, "verify", parent=attempt.run_id) as step:
        policy = load_policy(params.verify.policy, num_stressors=params.verify.num_stressors)
        base, known = base_opener(ws.path, params, split.retain), _Dense(tracking, ws, attempt.line, params)
        dense: ModelSource | None = known
        if params.verify.processes > 1:  # none of them has DVC
            dense = known.brought() if any(stressor.needs_dense for stressor in policy.stressors_run) else None
        verification = judged(
            ws.path / CHECKPOINT,
            sets,
            Controls(before, retrained, dense, base),
            policy,
            params,
            labels=_labels(request_ids),
        )
        verification = verification.with_earlier(judged_again(tracking, attempt, parent, params, sets, base))
        if tried := failed_before(attempt.line, request_ids, manifest.weights_digest):
            verification = verification.with_limit(_TRIED.format(", ".join(tried)))
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
        null=verification.null,
        judged_against=verification.judged_against,
        reference=reference.tag if reference else "",
    )


def _labels(request_ids: tuple[str, ...]) -> dict[str, str]:
    """Request ids by internal id of the person."""
    return {person_of(request_id): request_id for request_id in request_ids}


class _Dense:
    """Opens the dense model that the line's first version was pruned from; DVC brings it when a stressor asks for it.

    Raises (when asked):
        NothingToShowError: it is not known, or a purge has removed the first version, and with it the dense model.
        WorkspaceError: its bytes are in neither cache nor remote.
    """

    def __init__(self, tracking: Tracking, ws: Workspace, line: str, params: Params) -> None:
        self._tracking, self._ws, self._line, self._params = tracking, ws, line, params

    def __call__(self) -> LanguageModel:
        return _dense_in(self._folder, self._params)

    def brought(self) -> Callable[[], LanguageModel]:
        """The same for processes that have no DVC: brought now, or what kept it from coming."""
        try:
            return partial(_dense_in, self._folder, self._params)
        except SauError as error:
            return partial(_refuse, error)

    @cached_property
    def _folder(self) -> Path:
        tag = Registry(self._tracking).all(self._line)[0].tag
        if gone := expired(self._ws.settings.root, tag):
            raise NothingToShowError(f"nobody can fill the holes from the dense parent: {gone.words}")
        if (pin := dense_pin(tag)) is None:
            raise NothingToShowError(f"the dense model that {tag} was pruned from is not known")
        try:
            self._ws.point(_DENSE_PLACE, pin)
        except WorkspaceError:
            raise WorkspaceError(f"{tag}: its dense model is in neither DVC's cache nor its remote") from None
        return self._ws.path / _DENSE_PLACE


def _dense_in(folder: Path, params: Params) -> LanguageModel:
    return params.model.put(open_dense(folder, prompt=PROMPT))


def _refuse(error: SauError) -> NoReturn:
    raise error


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
    tracking.metrics(attempt.run_id, _by_role(verification) | _left(verification))
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


def _left(verification: Verification) -> dict[str, float]:
    """What is left of who was forgotten earlier, `earlier/<request>`: over the versions of a line, its drift."""
    return {
        f"earlier/{person.label}": finding.value
        for person in verification.earlier
        for finding in person.checks[:1]
        if finding.value is not None
    }


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
