"""Who was forgotten earlier on a line is judged again with every later version, as long as their rows exist."""

import logging
from dataclasses import replace

from sau.data.records import Row, load_records
from sau.data.sets import Sets
from sau.errors import SauError, VaultError
from sau.params import Params
from sau.stages import CHECKPOINT, FORGET
from sau.verify import Controls, load_policy
from sau.verify.evidence.readings import ModelSource
from sau.verify.record import PersonVerdict
from tasks.battery import judged, opener
from tasks.engines.keys import vault
from tasks.engines.people import person_of
from tasks.engines.pins import pins_at
from tasks.engines.settings import settings
from tasks.engines.tracking import Tracking
from tasks.engines.workspace import Attempt, Workspace
from tasks.versions.lineage import chain
from tasks.versions.record import VersionRecord
from tasks.versions.registry import Registry

log = logging.getLogger("sau")


def judged_again(
    tracking: Tracking, attempt: Attempt, parent: int, params: Params, sets: Sets, base: ModelSource | None
) -> list[PersonVerdict]:
    """The verdict on each whom the parent and its parents have forgotten, on the attempt's checkpoint.

    By `Policy.for_earlier`, beside the people that judge the request, whom one reading serves for all; the model before
    is the line's first version, which knew everybody. Who is not in the vault any more, and whose rows DVC does not
    bring either, is left out, and the log says so.

    Args:
        parent: the number of the version that the attempt was made from.
        sets, base: those that the request is judged on, and the base model that it is read against.
    """
    policy = load_policy(params.verify.policy).for_earlier
    links = chain(attempt.line, parent)
    if policy is None or not any(link.request_ids for link in links):
        return []
    rows: dict[str, list[Row]] = {}
    for link in links:
        rows |= _rows(attempt.workspace, link)
    if not rows:
        return []
    try:
        first = Registry(tracking).download(links[-1])
    except SauError:
        log.warning("who was forgotten earlier is not judged again: %s, which knew them, is gone", links[-1].tag)
        return []
    log.info("judging again %d who were forgotten earlier", len(rows))
    ws = attempt.workspace
    again = replace(sets, forget=[row for own in rows.values() for row in own])
    controls = Controls(before=opener(first, params), base=base)
    labels = {own[0]["subject_id"]: request_id for request_id, own in rows.items()}
    found = judged(ws.path / CHECKPOINT, again, controls, policy, params, labels=labels)
    if found.people:
        return found.people
    (request_id,) = rows
    return [
        PersonVerdict(
            label=request_id,
            num_records=len(again.forget),
            verdict=found.verdict,
            reasons=found.reasons,
            checks=found.checks,
        )
    ]


def _rows(ws: Workspace, link: VersionRecord) -> dict[str, list[Row]]:
    """By request id, the rows of a version's requests that exist."""
    held, missing = {}, []
    for request_id in link.request_ids:
        try:
            held[request_id] = vault().open(request_id)
        except VaultError:
            missing.append(request_id)
    if missing and not held:
        held = _pinned(ws, link)
    if gone := [request_id for request_id in missing if request_id not in held]:
        log.info("not judged again, their rows are gone: %s", ", ".join(gone))
    return held


def _pinned(ws: Workspace, link: VersionRecord) -> dict[str, list[Row]]:
    """The same of a version from before there was a vault, whose rows DVC pins."""
    place = f"again/{link.number}"
    try:
        ws.point(place, pins_at(settings().root, link.tag)[str(FORGET)])
        rows = load_records(ws.path / place).to_list()
    except (SauError, KeyError):
        return {}
    people = {request_id: person_of(request_id) for request_id in link.request_ids}
    found = {request_id: [row for row in rows if row["subject_id"] == who] for request_id, who in people.items()}
    return {request_id: own for request_id, own in found.items() if own}
