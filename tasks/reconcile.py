"""One truth: what ledger, registry, git and MLflow's runs say of a line is compared, and mended where it can be.

Nothing of the line runs meanwhile: its lock is held by the caller. What an attempt had registered before it died is
finished from where it was; the order of what is mended is the order in which an attempt writes.
"""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from sau.errors import RequestError, SauError, TrackingError, WorkspaceError
from tasks.certify import certify
from tasks.engines.ledger import Ledger, State
from tasks.engines.repository import fetch_tags, send_tags, tag_name, tag_version, tagged_versions
from tasks.engines.settings import settings
from tasks.engines.workspace import sweep
from tasks.publish import tell
from tasks.recipients import tell_recipients
from tasks.register import complete
from tasks.requests import conclude, given_up_as, lapsed
from tasks.retry import Try, tries_after
from tasks.suppression import Suppression
from tasks.versions.expiry import all_expired, expired
from tasks.versions.lineage import carried_out
from tasks.versions.record import BOOTSTRAP, MAY_LEAD, UNJUDGED, VersionRecord
from tasks.versions.registry import Registry

log = logging.getLogger("sau")


class Finding(BaseModel):
    """Where two stores contradicted each other.

    Attributes:
        what: in a sentence, with ids.
        way_out: what helps where it was not mended; "" where it was.
        stops: no attempt may begin before a person has decided.
        version: the version that was finished, where one was.
    """

    model_config = ConfigDict(frozen=True)

    what: str
    way_out: str = ""
    stops: bool = False
    version: VersionRecord | None = None

    @property
    def words(self) -> str:
        """What was found, and what helps."""
        return f"{self.what}; {self.way_out}" if self.way_out else self.what


def reconcile(line: str, reference_line: str) -> Iterator[Finding]:
    """Compare and mend, finding by finding; who takes no more findings has nothing more mended.

    Args:
        reference_line: the line that the retrained references are versions of.

    Raises:
        TrackingError: MLflow refuses, has somebody else's model of that name, or the chain of parents has a gap.
    """
    registry = Registry()
    yield from _given_up(line)
    for name in (line, reference_line):
        yield from _tags(registry, name)
    yield from _leader(registry, line)
    yield from _requests(registry, line)
    if said := tell_recipients(line):
        yield Finding(what=said)
    for name in (line, reference_line):
        if dead := registry.tracking.end_dead_runs(name):
            yield Finding(what=f"{name}: {len(dead)} MLflow runs of dead attempts ended as killed")
    if registry.all(line) and not Ledger(settings().ledger_url).waiting(line):
        kinds = dict.fromkeys(("bootstrap", "adopt", "forget", "audit"), line) | {"retrain": reference_line}
        for kind, name in kinds.items():
            sweep(kind, name)  # what dead attempts left: there is nothing to take up


def mend(line: str, reference_line: str) -> VersionRecord | None:
    """Reconcile before an attempt; returns the version that was finished on the way, None where none was.

    Raises:
        RequestError: what a person has to decide, with the way out.
        TrackingError: see `reconcile`.
    """
    finished = None
    for finding in reconcile(line, reference_line):
        if finding.stops:
            raise RequestError(finding.words)
        log.info("%s", finding.words)
        finished = finding.version or finished
    return finished


def check_new(line: str, reference_line: str) -> VersionRecord | None:
    """Refuse to begin a line that has begun; one whose first version was made and does not lead yet may be finished.

    Returns:
        That version, where there is one.

    Raises:
        RequestError: it has versions, or git has tags of versions that this MLflow store does not have.
        TrackingError: MLflow has somebody else's model of that name.
    """
    for finding in _given_up(line):
        raise RequestError(finding.words)
    registry = Registry()
    if (versions := registry.all(line)) and not _is_unfinished_first(registry, versions):
        raise RequestError(
            f"line {line}: has versions already, a line is bootstrapped once; another name with --line, or "
            f"`sau line forget-line {line}` gives this one up"
        )
    for name in (line, reference_line):
        for finding in _unknown_tags(name, registry.all(name)):
            raise RequestError(finding.words)
    return versions[0] if versions else None


def _is_unfinished_first(registry: Registry, versions: list[VersionRecord]) -> bool:
    begun = [(v.number, v.verdict, v.taken_from_git) for v in versions] == [(1, BOOTSTRAP, "")]
    return begun and registry.find(versions[0].line) is None


def _given_up(line: str) -> Iterator[Finding]:
    """Nobody has begun to give the line up."""
    if name := given_up_as(line):
        yield Finding(
            what=f"line {line}: is being given up, as {name}",
            way_out=f"`sau line forget-line {line}` goes on with it",
            stops=True,
        )


def _tags(registry: Registry, line: str) -> Iterator[Finding]:
    """Every version has a git tag that names its commit, here and in the team's git remote."""
    versions, root = registry.all(line), settings().root
    fetch_tags(root, line)
    tagged = tagged_versions(root, line)
    for record in versions:
        if record.number not in tagged:
            try:
                tag_version(root, record.tag, record.git_commit, f"{record.tag}: {record.verdict}")
            except WorkspaceError:
                yield Finding(
                    what=f"{record.tag}: its commit {record.git_commit[:12]} is not in this repository",
                    way_out="fetch the tags of the one it was made in (`git fetch --tags URL`)",
                    stops=True,
                )
            else:
                yield Finding(what=f"{record.tag}: had no git tag, and has one again")
        elif tagged[record.number] != record.git_commit:
            yield Finding(
                what=f"git tag {record.tag} names commit {tagged[record.number][:12]}, "
                f"MLflow's version {record.git_commit[:12]}",
                way_out=f"`git tag -d {record.tag}` where MLflow is right, else SAU_HOME or "
                "SAU_MLFLOW_TRACKING_URI is not the one this line was made with",
                stops=True,
            )
    send_tags(root, (tag for record in versions for tag in (record.tag, f"expired/{record.tag}")))
    yield from _unknown_tags(line, versions)


def _unknown_tags(line: str, versions: list[VersionRecord]) -> Iterator[Finding]:
    """No git tag is in the way of the next version."""
    newest = max((record.number for record in versions), default=0)
    if unknown := [number for number in sorted(tagged_versions(settings().root, line)) if number > newest]:
        tags = " ".join(tag_name(line, number) for number in unknown)
        yield Finding(
            what=f"line {line}: git has tags of versions that this MLflow store does not have ({tags})",
            way_out="set SAU_HOME or SAU_MLFLOW_TRACKING_URI to the store they are in; or "
            f"`sau line adopt-version {line} {unknown[0]}` takes them into this one, one by one; or give them up, the "
            f"line with `sau line forget-line {line}`, single ones with `git tag -d {tags}`; or take another name with "
            "--line",
            stops=True,
        )


def _leader(registry: Registry, line: str) -> Iterator[Finding]:
    """A version leads, and one that may."""
    if not (versions := registry.all(line)):
        return
    if _is_unfinished_first(registry, versions):
        yield _finished(registry, versions[0])
        return
    leader, root = registry.find(line), settings().root
    gone = expired(root, leader.tag) if leader else None
    if leader:
        outside = "somebody else than this product, seen at this check"
        registry.note_move(
            line, leader.number, by=outside if registry.moves(line) else "not known, before this was kept"
        )
    if leader is None or not leader.may_lead or gone:
        left_out = all_expired(root, line)
        able = [v for v in versions if v.may_lead and v.tag not in left_out]
        was = f"{leader.tag}: is champion with verdict {leader.verdict}" if leader else f"line {line}: none leads"
        yield Finding(
            what=f"is champion, {gone.words}" if gone else was,
            way_out=f"`sau line set-champion {line} {able[-1].number}` makes {able[-1].tag} the champion"
            if able
            else _hopeless(versions),
            stops=True,
        )


def _hopeless(versions: list[VersionRecord]) -> str:
    """The way out of a line none of whose versions may lead."""
    line = versions[0].line
    unjudged = [f"{line} {record.number}" for record in versions if record.verdict == UNJUDGED]
    way_out = f"no version of it passed: `sau line forget-line {line}` gives it up"
    return f"{way_out}; or `sau line set-champion {unjudged[-1]}`, without evidence" if unjudged else way_out


def _requests(registry: Registry, line: str) -> Iterator[Finding]:
    """Every request stands where the versions say it does."""
    ledger = Ledger(settings().ledger_url)
    if (leader := registry.find(line)) is None:
        return
    waiting = {request.id: request for request in ledger.waiting(line)}
    for record in reversed(registry.all(line)):
        ids = record.request_ids
        if not ids or record.parent != leader.number or not set(ids) <= waiting.keys():
            continue
        if record.verdict == UNJUDGED or not _judged_by_the_last(ledger, record):
            continue
        # One that did not pass only where its attempt died: an open request is to be tried again.
        if record.may_lead or all(waiting[i].state == State.RUNNING for i in ids):
            yield _finished(registry, record)
            break
    done = carried_out(line)
    for number in sorted({done[i] for i in waiting if i in done}):
        record = registry.get(line, number)
        unsigned = _certified(record)
        if conclude(record, leads=record.verdict in MAY_LEAD):
            registry.tracking.finish(record.judged_in)
            tell(record)
            yield Finding(
                what=f"{record.tag}: leads and carries out {' '.join(record.request_ids)}, which the ledger says now",
                way_out=unsigned,
                version=record,
            )
    left = [request.id for request in ledger.list(line, [State.RUNNING])]
    if died := ledger.move_all(left, [State.RUNNING], State.OPEN, last_error="died"):
        yield Finding(what=f"{' '.join(died)}: the attempt died, open again")
    known = set(ledger.ids())  # also of a line of this name that was given up
    for entry in Suppression().all():
        if entry.line == line and entry.request_id not in known and entry.request_id not in done:
            yield Finding(
                what=f"{entry.request_id}: was forgotten by {entry.at:%Y-%m-%d}, and neither the ledger nor the "
                f"leading {leader.tag} knows of it: was a backup restored?",
                way_out="bring back what is newer, or submit the person's request again and then "
                f"`sau suppression lift {entry.request_id}`",
                stops=True,
            )
    for request_id in lapsed(line):
        yield Finding(
            what=f"{request_id}: forgotten, and not in force on {leader.tag}, which leads",
            way_out=f"the next `sau forget --line {line}` carries it out again",
        )


def _judged_by_the_last(ledger: Ledger, record: VersionRecord) -> bool:
    """Whether a version's verdict is of the last attempt on its requests: an earlier one says nothing of what that
    attempt was to judge by. Versions of before that was written down are taken to be."""
    if not record.judged_at:
        return True
    claims = (at for id_ in record.request_ids for at, state in ledger.events(id_) if state == State.RUNNING)
    return datetime.fromisoformat(record.judged_at) >= max(claims, default=datetime.min.replace(tzinfo=UTC))


def _finished(registry: Registry, record: VersionRecord) -> Finding:
    """The rest of an attempt that died after it had registered a version."""
    complete(record)
    if record.may_lead:
        registry.lead(record.line, record.number)
    record = registry.get(record.line, record.number)
    registry.tracking.finish(record.judged_in)
    tell(record)
    unsigned = _certified(record)
    again = [i for another in _tries(record) for i in another.request_ids]
    conclude(record, leads=record.leads, but=again)
    role = "champion" if record.leads else "a candidate only"
    what = f"{record.tag}: was registered and not finished; it is {role} now"
    what += f"; {' '.join(again)} are tried again" if again else ""
    return Finding(what=what, way_out=unsigned, version=record)


def _tries(record: VersionRecord) -> list[Try]:
    """What it leaves to be tried; nothing where its run cannot say how it was judged."""
    try:
        return tries_after(record)
    except TrackingError:
        return []


def _certified(record: VersionRecord) -> str:
    """Sign the evidence of a version's requests; why it could not be, in words, which stops no line for ever."""
    try:
        if record.request_ids:
            certify.fn(record)
    except SauError as error:
        return f"its evidence could not be signed: {error}"
    return ""
