"""A version that git and DVC have and this MLflow store does not: taken into its registry, because a person says so."""

import logging
from datetime import UTC, datetime

import yaml

from sau.checkpoint.manifest import SparseCheckpoint, check_files
from sau.config import checked
from sau.errors import RequestError, SauError, WorkspaceError
from sau.params import Params
from sau.verify import Verification
from tasks.engines.ledger import Ledger
from tasks.engines.pins import pins_at
from tasks.engines.repository import commit_of, git, tag_name, tagged_versions
from tasks.engines.settings import settings
from tasks.engines.workspace import scratch
from tasks.register import complete
from tasks.verify import RECORD
from tasks.versions.expiry import expired
from tasks.versions.origin import made_of
from tasks.versions.record import BOOTSTRAP, UNJUDGED, Verdict, VersionRecord
from tasks.versions.registry import Registry
from tasks.versions.reproduce import check_as_recorded

log = logging.getLogger("sau")

ADOPTED = "version adopted"
"""The kind of a line's event in the ledger."""
_PLACE = "version"


def take_from_git(line: str, number: int, by: str) -> VersionRecord:
    """Register the version that git's tag names: its bytes from DVC, checked; the line is held, and nobody leads by it.

    It gets its number, or where MLflow has given that away before, the next one, with a git tag of its own. What a run
    of this store says of these weights and requests is its verdict, else it is unjudged. Killed on the way, call it
    again.

    Args:
        by: who decided it.

    Raises:
        RequestError: the registry has it already, lacks the version it was made from, or a purge removed its bytes.
        WorkspaceError: no such tag, its bytes are in neither DVC's cache nor its remote, or are not what it recorded.
    """
    registry, root, tag = Registry(), settings().root, tag_name(line, number)
    tagged, versions = tagged_versions(root, line), registry.all(line)
    if number not in tagged:
        raise WorkspaceError(f"version {tag}: no such git tag here (git fetch --tags?)")
    if gone := expired(root, tag):
        raise RequestError(gone.words)
    for known in versions:
        if known.number == number or known.git_commit == tagged[number] == tagged.get(known.number):
            if known.git_commit == tagged[number] and known.taken_from_git:
                return _completed(registry, known)  # of an attempt that died
            raise RequestError(f"{tag}: this MLflow store has it already, as {known.tag}; see `sau line show {line}`")
    log.info("fetching %s", tag)
    with scratch("adopt-version") as ws:
        ws.point(_PLACE, pins_at(root, tag)["checkpoint"])
        stored = check_files(ws.path / _PLACE)
        check_as_recorded(tag, stored)
        decided = f"{by}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        record = _record(registry, line, number, tagged[number], stored, decided)
        for known in versions:
            if known.number < number and known.git_commit == record.git_commit:  # on its way to the number
                registry.tracking.delete_version(line, known.number)
            elif known.is_same_as(record):
                raise RequestError(f"{tag}: has the requests, parent and weights of {known.tag}; `git tag -d {tag}`")
        log.info("registering %s", tag)
        with registry.tracking.run(line, "adopt-version", tags={"request_ids": ",".join(record.request_ids)}) as run_id:
            said = f"**{record.verdict}**, from git"
            taken = registry.add(record, ws.path / _PLACE, run_id=run_id, description=said, number=number)
    return _completed(registry, taken)


def _completed(registry: Registry, record: VersionRecord) -> VersionRecord:
    """The rest: what was made from it under another number; what every version gets; who decided it in the ledger."""
    versions, line = registry.all(record.line), record.line
    names = {n for n, commit in tagged_versions(settings().root, line).items() if commit == record.git_commit}
    names -= {known.number for known in versions}
    for child in versions:
        if child.parent in names and child.parent_digest == record.weights_digest:
            registry.tracking.tag_version(line, child.number, {"parent_version": str(record.number)})
    complete(record)
    ledger = Ledger(settings().ledger_url)
    if all((e.kind, e.version) != (ADOPTED, record.number) for e in ledger.line_events(line)):
        ledger.note_line(line, ADOPTED, record.taken_from_git.rpartition(", ")[0], version=record.number)
    return registry.get(line, record.number)


def _record(
    registry: Registry, line: str, number: int, commit: str, stored: SparseCheckpoint, by: str
) -> VersionRecord:
    """What git, DVC and the checkpoint say of a version."""
    root, tag = settings().root, tag_name(line, number)
    made = commit_of(root, commit)
    params = checked(Params, yaml.safe_load(git(root, "show", f"{commit}:params.yaml")), "parameters")
    pins = pins_at(root, commit)
    code, *before = made.parents
    parent = _known(registry, line, before[0], tag) if before else None
    judged = _judged(registry, line, stored.weights_digest, made.request_ids) or Verdict(
        verdict=UNJUDGED if made.request_ids else BOOTSTRAP
    )
    return VersionRecord(
        line=line,
        request_ids=made.request_ids,
        data_md5=pins["data"].md5,
        forget_md5=pins["forget"].md5 if "forget" in pins else "",
        checkpoint_md5=pins["checkpoint"].md5,
        code_commit=code,
        checkout_dirty=False,
        taken_from_git=by,
        **made_of(commit, stored, params, parent),
        **judged.model_dump(),
    )


def _known(registry: Registry, line: str, commit: str, child: str) -> VersionRecord:
    """The registered version of a commit.

    Raises:
        RequestError: there is none, which has to be taken in first.
    """
    if known := next((known for known in registry.all(line) if known.git_commit == commit), None):
        return known
    named = [number for number, of in tagged_versions(settings().root, line).items() if of == commit]
    if not named:
        raise RequestError(f"{child}: was made from commit {commit[:12]}, of which git has no tag (git fetch --tags?)")
    raise RequestError(
        f"{child}: was made from {tag_name(line, named[0])}, which this MLflow store does not have either: first "
        f"`sau line adopt-version {line} {named[0]}`"
    )


def _judged(registry: Registry, line: str, weights_digest: str, request_ids: tuple[str, ...]) -> Verdict | None:
    """The verdict that a run of this MLflow store holds on these weights and requests; None where none does."""
    for run_id, tags in registry.tracking.judged_runs(line, weights_digest) if request_ids else ():
        if tags.get("request_ids") != ",".join(request_ids):
            continue
        try:
            found = Verification.model_validate_json(registry.tracking.artifact(run_id, RECORD))
        except (SauError, ValueError):  # it died before it could say so
            continue
        if found.weights_digest == weights_digest:
            return Verdict(
                verdict=found.verdict,
                policy=found.policy,
                policy_digest=found.policy_digest,
                null=found.null,
                judged_against=found.judged_against,
                verdict_run=run_id,
            )
    return None
