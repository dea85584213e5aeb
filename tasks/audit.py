"""An audit: everybody whom a version has forgotten is judged again, beside people and beside a retrained model.

What costs nothing decides every day; that it decides rightly is shown now and then by what costs a training.
"""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ConfigDict, computed_field

from sau.data.records import Row, load_records
from sau.data.sets import Sets, by_person, halves
from sau.data.shards import sampled_rows
from sau.data.vault import forget_rows, reading_with
from sau.params import Params, load_params
from sau.stages import BASE, DATA, FORGET, PARENT
from sau.verify import Controls, Verification, load_policy
from sau.verify.checks.base import Null
from tasks.battery import base_opener, judged, opener, sampled
from tasks.engines.keys import vault
from tasks.engines.orchestration import task
from tasks.engines.people import person_of
from tasks.engines.pins import pins_at
from tasks.engines.settings import settings
from tasks.engines.workspace import Attempt
from tasks.versions.record import VersionRecord
from tasks.versions.registry import Registry

log = logging.getLogger("sau")

AGREE, DISAGREE = "the nulls agree", "THE NULLS DISAGREE"


class Audited(BaseModel):
    """One request's two verdicts, on the line's champion.

    Attributes:
        population, retrained: by null.
    """

    model_config = ConfigDict(frozen=True)

    request_id: str
    version: int
    population: str
    retrained: str

    @computed_field  # type: ignore[prop-decorator]
    @property
    def agrees(self) -> bool:
        """Whether the verdicts do not contradict each other; one without a result contradicts nothing."""
        return {self.population, self.retrained} != {"PASS", "FAIL"}

    @property
    def words(self) -> str:
        said = AGREE if self.agrees else DISAGREE
        return f"{said}: beside people {self.population}, beside a retrained model {self.retrained}"


@task(name="prepare audit", task_run_name="prepare {attempt.name}")
def prepare_audit(attempt: Attempt, champion: VersionRecord) -> None:
    """A worktree with what the champion was made from: its data is what a retrained model may know."""
    ws = attempt.workspace.open(champion.tag)
    if not ws.prepared:
        ws.point(str(DATA), pins_at(settings().root, champion.tag)[str(DATA)])
        ws.mark_prepared()


@task(name="audit", task_run_name="audit {version.tag}")
def audit_version(
    attempt: Attempt, version: VersionRecord, champion: VersionRecord, reference: VersionRecord
) -> tuple[Audited, ...]:
    """Judge the champion on each request of a version, by the champion's policy and both nulls.

    The records are artifacts of the audit's run; what came of it stands on the version.

    Args:
        version: one that requests were carried out in.
        reference: a model retrained without anybody whom the champion has forgotten.
    """
    registry, ws = Registry(), attempt.workspace
    folder, pins = ws.path / "audit" / str(version.number), pins_at(settings().root, version.tag)
    for name in (FORGET, PARENT, BASE):
        if str(name) in pins:  # the base of an adopted line need not be known
            ws.point(str(folder.relative_to(ws.path) / name), pins[str(name)])
    params = load_params(ws.path / "params.yaml")
    with reading_with(vault()):
        forget = forget_rows(folder / FORGET) or load_records(folder / FORGET).to_list()
    retain = sampled_rows(ws.path / DATA / "train", params.seed)
    holdout = load_records(ws.path / DATA / "holdout").to_list()
    rows_of = {rows[0]["subject_id"]: rows for rows in by_person(forget)}
    judges = halves(holdout, params.seed)[1]
    models = registry.download(champion), registry.download(reference)
    found = []
    for request_id in version.request_ids:
        log.info("auditing request %s", request_id)
        rows = rows_of[person_of(request_id)]
        sets = sampled(Sets(rows, retain, judges), params)
        with registry.tracking.run(attempt.line, f"audit {request_id}", parent=attempt.run_id):
            verdicts = {}
            for null in get_args(Null):
                record = _judged(params, sets, folder, retain, *models, null)
                verdicts[null] = record.verdict
                text = json.dumps(record.to_json(), indent=1)
                registry.tracking.text(attempt.run_id, text, f"audit/{request_id}-{null}.json")
        found.append(Audited(request_id=request_id, version=version.number, **verdicts))
    words = "; ".join(f"{audited.request_id} {audited.words}" for audited in found)
    tags = {"audited": datetime.now(UTC).date().isoformat(), "audit": words}
    registry.tracking.tag_version(version.line, version.number, tags)
    return tuple(found)


def _judged(
    params: Params, sets: Sets, folder: Path, retain: list[Row], model: Path, retrained: Path, null: Null
) -> Verification:
    """One person's verdict on `model`.

    Args:
        folder: with the version's parent and base model.
        retain: all rows to keep, of which `sets` has some.
    """
    controls = Controls(
        before=opener(folder / PARENT, params),
        reference=opener(retrained, params),
        base=base_opener(folder, params, retain),
    )
    policy = load_policy(params.verify.policy, num_stressors=params.verify.num_stressors, null=null)
    return judged(model, sets, controls, policy, params)
