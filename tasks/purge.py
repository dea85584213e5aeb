"""Purge: a person's rows leave every store, and the versions that knew them expire; each store by itself.

What is to go is planned first and kept in `<home>/purges/<request>.json`; every step looks at what is there, so a
purge that was killed is finished by running it again. What a store would not let go of is said, and the purge is then
partial.
"""

import logging
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from sau.certificate.record import Cleaned
from sau.errors import RequestError, SauError
from sau.files import write_private
from sau.logs import about
from tasks.certify import latest, log_folder, signed
from tasks.engines.databases import clean, local_databases
from tasks.engines.decisions import approvers
from tasks.engines.keys import vault
from tasks.engines.ledger import Ledger, State
from tasks.engines.objects import CACHE, REMOTE, Objects, clean_run_cache, drop_site_cache, open_objects
from tasks.engines.orchestration import task
from tasks.engines.people import People
from tasks.engines.pins import Pin, pins_at
from tasks.engines.repository import TAG, git, parse_tag
from tasks.engines.settings import KEPT, settings
from tasks.engines.workspace import sweep
from tasks.requests import in_force
from tasks.scan import DATA_SET, ERASED, Scan, scan, secrets_of
from tasks.suppression import Suppression
from tasks.versions.expiry import expire, expired
from tasks.versions.lineage import carried_out
from tasks.versions.record import VersionRecord
from tasks.versions.registry import Registry

log = logging.getLogger("sau")

_INPUTS = ("parent", "dense", "model")
"""What a version was made from, which is not what it is: kept only where something else keeps it."""


class Plan(BaseModel):
    """What a purge is to remove.

    Attributes:
        version: number of the one that carried the request out.
        expiring: tags of the versions that knew the person.
        objects: md5 of DVC's objects that nothing else needs.
        sources: MLflow's models of these versions.
        policy: why now, in words.
        looked: what the residue scan found, once it has run: it cannot run again when the rows are shredded.
    """

    model_config = ConfigDict(frozen=True)

    request_id: str
    line: str
    version: int
    expiring: tuple[str, ...]
    objects: tuple[str, ...]
    sources: tuple[str, ...]
    policy: str
    looked: Cleaned | None = None


class Purged(BaseModel):
    """What a purge came to: what each store says, and the digest of the record that says it."""

    model_config = ConfigDict(frozen=True)

    request_id: str
    expired: tuple[str, ...]
    stores: tuple[Cleaned, ...]
    record: str

    @property
    def partial(self) -> bool:
        """Whether something is left anywhere."""
        return any(cleaned.residual for cleaned in self.stores)


def due(line: str, after_days: int) -> list[str]:
    """Forgotten requests of a line that are in force, not purged, under no hold, and past the rollback window.

    Raises:
        TrackingError: MLflow cannot be asked.
    """
    past = Ledger(settings().ledger_url).forgotten_before(line, datetime.now(UTC) - timedelta(days=after_days))
    purged = vault().shredded()
    left = [request_id for request_id in past if request_id not in purged or is_begun(request_id)]
    done = carried_out(line) if left else {}
    return [request_id for request_id in left if request_id in done and _lacking(request_id) <= 0]


def _lacking(request_id: str) -> int:
    """How many people have still to approve a purge; none where the settings ask for one person, who runs it."""
    if (people := settings().purge_people) < 2:
        return 0
    return people - len(approvers(Ledger(settings().ledger_url), request_id))


def is_purged(request_id: str) -> bool:
    """Whether a purge of a request has been finished; one that died on the way has not."""
    return vault().state(request_id) == "shredded" and not is_begun(request_id)


def is_begun(request_id: str) -> bool:
    """Whether a purge of a request was begun and has not been finished."""
    return _journal(request_id).exists()


def check_purge(request_id: str) -> None:
    """Refuse what must not be purged.

    Raises:
        RequestError: unknown, not forgotten, not in force on the version that leads, under a legal hold, purged, or not
            approved by as many people as the settings ask for.
    """
    request = Ledger(settings().ledger_url).get(request_id)
    if is_begun(request_id):
        return  # begun: to be finished
    if is_purged(request_id):
        raise RequestError(f"request {request_id}: was purged already")
    if request.held_at is not None:
        raise RequestError(f"request {request_id}: is under a legal hold since {request.held_at:%Y-%m-%d}")
    if (lacking := _lacking(request_id)) > 0:
        raise RequestError(
            f"request {request_id}: {lacking} more people have to approve its purge (`sau request approve`), see "
            "SAU_PURGE_PEOPLE"
        )
    if request.state != State.FORGOTTEN or not in_force([request]).get(request_id):
        stands = f"{request.state}, and not in force" if request.state == State.FORGOTTEN else request.state
        raise RequestError(
            f"request {request_id}: is {stands}; only what the leading version has forgotten can be purged"
        )


def preview(request_id: str, policy: str = "") -> Plan:
    """What is to go; of a purge that died, what it had planned.

    Raises:
        RequestError: see `check_purge`.
        WorkspaceError: git or DVC refused.
    """
    check_purge(request_id)
    if (journal := _journal(request_id)).is_file():
        try:
            return Plan.model_validate_json(journal.read_bytes())
        except ValidationError:
            raise RequestError(f"{journal}: damaged, restore it from a backup") from None
    request = Ledger(settings().ledger_url).get(request_id)
    assert request.version is not None  # it is forgotten
    gone, kept = _split(request.line, request.version)
    with open_objects() as objects:
        found = objects_to_go(objects, request_id, gone, kept)
    return Plan(
        request_id=request_id,
        line=request.line,
        version=request.version,
        expiring=tuple(record.tag for record in gone),
        objects=tuple(sorted(found)),
        sources=tuple(record.source for record in gone if record.source),
        policy=policy,
    )


@task(name="purge", task_run_name="purge {request_id}")
def purge(request_id: str, policy: str, by: str = "") -> Purged:
    """Carry a plan out, store by store, and sign what came of it; the line's lock is held.

    Args:
        policy: why now, in words that name nobody: it stands in the signed record.
        by: who decided, where that was a person; for the ledger.

    Raises:
        RequestError: see `check_purge`.
    """
    with about(requests=(request_id,)):
        return _purge(preview(request_id, policy), by)


def _purge(todo: Plan, by: str) -> Purged:
    request_id = todo.request_id
    _keep(todo)
    log.info("purging %s: %d versions expire, %d objects", request_id, len(todo.expiring), len(todo.objects))
    secrets: dict[str, str] = {}
    if vault().state(request_id) == "held":
        secrets = secrets_of(request_id)
        Suppression().add(request_id)
    for tag in todo.expiring:
        expire(settings().root, tag, request_id, todo.policy)
    done = [_tried(store, step) for store, step in _steps(todo, by)]
    looked = _checked(scan(secrets), set(todo.objects)) if secrets else todo.looked or _not_checked()
    _keep(todo.model_copy(update={"looked": looked}))
    done += [looked, _tried("vault", lambda: _shredded(request_id))]
    record = _sign(todo, done)
    if any(cleaned.residual for cleaned in done if cleaned.store != _SCAN):
        log.warning("the purge of %s is partial: run it again", request_id)
    else:
        _journal(request_id).unlink(missing_ok=True)
    log.info("purged %s", request_id)
    return Purged(request_id=request_id, expired=todo.expiring, stores=tuple(done), record=record)


Step = Callable[[], tuple[str, str, str]]
"""What was done, how that was verified, and what is left ("" where nothing)."""

_SCAN = "residue scan"


def _steps(todo: Plan, by: str) -> list[tuple[str, Step]]:
    """Every store with its step, in order; the databases are cleaned after everything that is deleted in them."""

    def objects(store: str) -> tuple[str, str, str]:
        with open_objects() as found:
            removed = found.delete(store, todo.objects)
        left = f"{removed.left} objects could not be deleted ({removed.why or 'still there'})" if removed.left else ""
        return f"{len(todo.objects)} objects deleted by hash", "each was looked for afterwards", left

    def models() -> tuple[str, str, str]:
        tracking = Registry().tracking
        left = sum(tracking.delete_model(source) for source in todo.sources)
        for tag in todo.expiring:
            line, number = parse_tag(tag)
            tracking.tag_version(line, number, {"expired_by": todo.request_id, "expired_policy": todo.policy})
        done = f"files of {len(todo.sources)} models deleted, entries kept with their digests"
        return done, "listed afterwards", f"{left} files" if left else ""

    def run_cache() -> tuple[str, str, str]:
        count = clean_run_cache(set(todo.objects))
        drop_site_cache()
        return f"{count} entries of the run cache removed, the site cache emptied", "read entry by entry", ""

    def files() -> tuple[str, str, str]:
        state = settings().state
        for kind in ("bootstrap", "forget", "audit"):
            sweep(kind, todo.line)
        sweep("retrain", f"{todo.line}-retrain")
        folders = [*(state / "models" / tag for tag in todo.expiring), state / KEPT]
        logs = list((state / "logs").glob("*"))
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        for path in logs:
            path.unlink(missing_ok=True)
        left = [path.name for path in folders if path.exists()]
        done = (
            f"worktrees of dead attempts, restored copies of expired versions, what verifications kept and {len(logs)} "
            "error logs deleted"
        )
        return done, "looked for afterwards", ", ".join(left)

    def ledger() -> tuple[str, str, str]:
        given, name = Ledger(settings().ledger_url), f"{ERASED}{todo.request_id.removeprefix('r-')}"
        People(given).forget(todo.line, given.get(todo.request_id).subject_id)
        given.erase_subject(todo.request_id, name, note=todo.policy, actor=by or None)
        return "the person's id and its connection to an internal id deleted", "read back", ""

    def databases() -> tuple[str, str, str]:
        left = {path.name: found for path in local_databases() if (found := clean(path))}
        names = ", ".join(path.name for path in local_databases())
        words = "; ".join(f"{name}: {found}" for name, found in left.items())
        return f"{names or 'no database'} written anew, logs emptied", "free pages and logs are empty", words

    return [
        (CACHE, lambda: objects(CACHE)),
        (REMOTE, lambda: objects(REMOTE)),
        ("DVC run cache and site cache", run_cache),
        ("MLflow models", models),
        ("restored copies and logs", files),
        ("ledger", ledger),
        ("databases (ledger, MLflow, Prefect)", databases),
    ]


def _shredded(request_id: str) -> tuple[str, str, str]:
    """The vault's step, after the scan, which needs the rows."""
    vault().shred(request_id)
    state = vault().state(request_id)
    return "data key shredded, sealed rows deleted", f"the vault says {state}", "" if state == "shredded" else state


def _tried(store: str, step: Step) -> Cleaned:
    """One store by itself: where it refuses, the others go on."""
    log.info("purge: %s", store)
    try:
        action, verified_by, residual = step()
    except (SauError, OSError) as error:
        action, verified_by, residual = "not done", "", f"{type(error).__name__}: run the purge again"
    return Cleaned(store=store, action=action, at=datetime.now(UTC), verified_by=verified_by, residual=residual)


def _checked(found: Scan, going: set[str]) -> Cleaned:
    """The residue scan with the secrets that were in memory, as one more store.

    Args:
        going: md5 of the objects that were to be deleted: what is still in one of these is left, whoever shares it.
    """
    in_data = [hit for store in found.stores if store.store == DATA_SET for hit in store.hits]
    staying = [hit for hit in in_data if "".join(Path(hit.where).parts[-2:]) not in going]
    shared = {label for hit in staying for label in hit.labels}
    left = []
    for store in found.found:
        hits = [h for h in store.hits if h not in staying and (store.store == DATA_SET or set(h.labels) - shared)]
        if hits:
            left.append(f"{store.store}: {len(hits)} files")
    files = sum(store.files for store in found.stores)
    words = f"{found.secrets} secrets looked for in {files} files"
    if shared:
        words += f"; {len(shared)} of them are in other people's rows as well, and say nothing"
    return Cleaned(
        store=_SCAN,
        action=words,
        at=datetime.now(UTC),
        verified_by=f"not searched: {'; '.join(found.not_searched)}",
        residual="; ".join(left),
    )


def _not_checked() -> Cleaned:
    why = "the rows were shredded by the run before this one: nothing was left to look for them with"
    return Cleaned(store=_SCAN, action="not run", at=datetime.now(UTC), verified_by="", residual=why)


def _sign(todo: Plan, done: list[Cleaned]) -> str:
    """A further record of the request, with what was cleaned; returns its digest."""
    try:
        before = latest(todo.request_id)
    except RequestError:  # carried out before there were records
        return ""
    evidence = before.evidence.model_dump(mode="json")
    evidence["request"] |= {"key": "shredded"}
    evidence["purge"] = [cleaned.model_dump(mode="json") for cleaned in done]
    evidence["not_covered"] = [words for words in evidence["not_covered"] if not words.startswith("Versions of")]
    subjects = [subject.model_dump(mode="json") for subject in before.statement.subject]
    entry = signed(subjects, evidence)
    log.info("record %s in %s", entry.digest[:16], log_folder())
    return entry.digest


def _keep(todo: Plan) -> None:
    """Write the plan down, for who goes on with it."""
    journal = _journal(todo.request_id)
    journal.parent.mkdir(mode=0o700, exist_ok=True)
    write_private(journal, todo.model_dump_json().encode())


def _journal(request_id: str) -> Path:
    return settings().state / "purges" / f"{request_id}.json"


def _split(line: str, version: int) -> tuple[list[VersionRecord], list[VersionRecord]]:
    """A line's versions and its references: (those that knew the person and are not gone yet, those that stay).

    One stays that has the version which carried the request out among its parents, or is it.

    Raises:
        RequestError: the version that leads is not among those that stay.
    """
    registry, root = Registry(), settings().root
    versions = registry.all(line)
    knows_not: set[int] = set()
    for record in versions:  # oldest first: a parent before its children
        if record.number == version or record.parent in knows_not:
            knows_not.add(record.number)
    if registry.champion(line).number not in knows_not:
        raise RequestError(f"line {line}: the version that leads has not carried the request out")
    staying = [record for record in versions if record.number in knows_not]
    data = {record.data_md5 for record in staying}
    references = registry.all(f"{line}-retrain")
    staying += [record for record in references if record.data_md5 in data]
    tags = {record.tag for record in staying}
    gone = [r for r in [*versions, *references] if r.tag not in tags and not expired(root, r.tag)]
    return gone, staying


def objects_to_go(objects: Objects, request_id: str, gone: list[VersionRecord], kept: list[VersionRecord]) -> set[str]:
    """The objects of expiring versions, and what those that stay were made from, without what any version needs.

    Versions of other lines keep all they pin; a branch of the user's keeps nothing that an expiring version has.
    """
    root = settings().root
    going: set[str] = set()
    needed: set[str] = set()
    for record in gone:
        for pin in pins_at(root, record.tag).values():
            going |= _all(objects, pin)
    ours = {record.tag for record in [*gone, *kept]}
    for record in kept:
        for path, pin in pins_at(root, record.tag).items():
            members = objects.members(pin.md5)
            if path in ("forget", "earlier"):  # of several who asked, each has a file
                mine = {md5 for name, md5 in members.items() if name == f"{request_id}.sealed"}
                old = not any(name.endswith(".sealed") for name in members)  # rows in clear, from before the vault
                alone = len(members) == 1 and bool(mine)
                going |= mine | ({pin.md5} if alone or old else set()) | (set(members.values()) if old else set())
                needed |= set() if old else (set(members.values()) - mine) | (set() if alone else {pin.md5})
            elif path in _INPUTS:
                going |= _all(objects, pin)
            else:
                needed |= {pin.md5, *members.values()}
    for tag in _others(root, ours):
        for pin in pins_at(root, tag).values():
            needed |= _all(objects, pin)
    return going - needed


def _all(objects: Objects, pin: Pin) -> set[str]:
    return {pin.md5, *objects.members(pin.md5).values()}


def _others(root: Path, ours: set[str]) -> list[str]:
    """Tags of other lines' versions that are not gone."""
    tags = [tag for tag in git(root, "tag", "--list").splitlines() if TAG.match(tag) and tag not in ours]
    lines = {parse_tag(tag)[0] for tag in ours}
    return [tag for tag in tags if parse_tag(tag)[0] not in lines and not expired(root, tag)]
