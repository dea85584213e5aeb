"""Forgetting: all open requests of a line, as one new version. Read aloud, it is the product."""

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from flows.attempt import attempt, line_lock
from flows.purge import purge_due
from flows.retrain import reference_line, retrain
from sau.config import merge
from sau.errors import SauError, TrackingError
from sau.logs import about
from sau.stages import RECIPES
from tasks.certify import certify
from tasks.deadlines import announce
from tasks.engines.ledger import Ledger, State
from tasks.engines.orchestration import flow, once_for_all_missed
from tasks.engines.registered import CHAMPION
from tasks.engines.settings import settings
from tasks.prepare import prepare_forget
from tasks.publish import publish
from tasks.quarantine import look_at
from tasks.recipients import tell_recipients
from tasks.reconcile import mend
from tasks.register import promote, register
from tasks.requests import claim, conclude
from tasks.retry import Try, tries_after
from tasks.scope import decided_rows
from tasks.stage import run_stage
from tasks.verify import verify
from tasks.versions.origin import check_retrainable
from tasks.versions.record import VersionRecord
from tasks.versions.registry import Registry

log = logging.getLogger("sau")


class Outcome(BaseModel):
    """What a run of the flow came to; no version where nothing was open."""

    model_config = ConfigDict(frozen=True)

    requests: tuple[str, ...] = ()
    version: int | None = None
    tag: str = ""
    verdict: str = ""
    champion: bool = False
    run_id: str = ""
    weights_digest: str = ""
    git_commit: str = ""

    @classmethod
    def of(cls, record: VersionRecord) -> "Outcome":
        """What a version says of the run that made it."""
        said = record.model_dump(include={"tag", "verdict", "weights_digest", "git_commit"})
        return cls(
            requests=record.request_ids,
            version=record.number,
            champion=record.leads,
            run_id=record.judged_in,
            **said,
        )


@flow(name="forget", flow_run_name="forget {line}", on_running=[once_for_all_missed])
def forget(
    line: str,
    reference: bool = False,
    retry_review: bool = False,
    overrides: dict[str, Any] | None = None,
    show_answers: bool = False,
) -> Outcome:
    """All open requests of a line: snapshot -> unlearn -> package -> verify -> register -> promote on PASS.

    Forgotten requests that the leading version has not carried out are taken again. Where some of several requests pass
    alone and others do not, the ones that pass are carried out once more without them. Who does not pass is tried again
    where the checks say how (`tasks.retry`), as often as `verify.retries` allows, and goes to `review` after that.

    Before, open requests are looked at: those whose rows are mostly common text wait for a person (`tasks.quarantine`).

    In the end, what is past the rollback window of SAU_PURGE_AFTER_DAYS is purged.

    Args:
        reference: retrain a reference as one control more; a policy whose null is `retrained` cannot do without.
        retry_review: also take requests again whose last version did not pass.
        overrides: parameters on top of the parent version's.
        show_answers: put what the models answer into the report; rows of the demo people only.

    Raises:
        RequestError: the stores contradict each other, and a person has to decide.
        SauError: whatever a step refuses; the requests are open again then.
    """
    announce(line)
    with line_lock(line, "forget"):
        finished = mend(line, reference_line(line))
        if reference:
            check_retrainable(Registry().champion(line), overrides)
        ids = [request.id for request in claim(line, retry_review=retry_review, only=look_at(line))]
        if not ids:
            log.info("no open request on %s", line)
            outcome = Outcome.of(finished) if finished else Outcome()
        else:
            record, champion = _carried_out(line, ids, reference, overrides or {}, show_answers)
            with contextlib.suppress(TrackingError):  # the next run tells them
                tell_recipients(line)
            outcome = Outcome.of(record.model_copy(update={"aliases": (CHAMPION,) if champion else ()}))
    try:
        purge_due(line)
    except SauError as error:  # what was forgotten is forgotten; the next run tries again
        log.warning("purge: %s", error)
    return outcome


def _carried_out(
    line: str, ids: list[str], reference: bool, overrides: dict[str, Any], show_answers: bool
) -> tuple[VersionRecord, bool]:
    """Try after try, and the ledger says how each ended; requests that wait are open again where one raises.

    Returns:
        The newest version that leads, else the last; and whether it leads.
    """
    ledger, best = Ledger(settings().ledger_url), None
    left = [(Try(request_ids=tuple(ids)), overrides)]
    while left:
        asked, given = left.pop(0)
        try:
            with about(requests=asked.request_ids):
                record, champion, more = _new_version(
                    line, list(asked.request_ids), reference, merge(given, asked.changes), show_answers
                )
        except BaseException as error:
            waiting = [*asked.request_ids, *(i for other, _ in left for i in other.request_ids)]
            ledger.move_all(waiting, [State.RUNNING], State.OPEN, last_error=type(error).__name__)
            raise
        left += [(another, given) for another in more]
        conclude(record, leads=champion, but=[i for another in more for i in another.request_ids])
        for another in more:
            how = f"once more, with {_words(another.changes)}" if another.changes else "without the others"
            log.info("%d of %d requests are carried out %s", len(another.request_ids), len(asked.request_ids), how)
        if champion or best is None or not best[1]:
            best = record, champion
    assert best is not None
    return best


def _words(changes: Mapping[str, Any], above: str = "") -> str:
    """Parameters as `--set` takes them."""
    return " ".join(
        _words(value, f"{above}{name}.") if isinstance(value, Mapping) else f"{above}{name}={value:g}"
        for name, value in changes.items()
    )


def _new_version(
    line: str, ids: list[str], reference: bool, overrides: dict[str, Any], show_answers: bool
) -> tuple[VersionRecord, bool, list[Try]]:
    """The version that carries out these requests; whether it leads now; and what it leaves to be tried."""
    parent = Registry().champion(line)
    tags = {"request_ids": ",".join(ids), "parent": parent.tag}
    inputs = (parent.number, ids, overrides, decided_rows(Ledger(settings().ledger_url), ids))
    with attempt("forget", line, *inputs, run_name=f"forget {ids[0]}", tags=tags) as this:
        pins = prepare_forget(this, parent, ids, overrides)
        for stage in RECIPES["forget"]:
            run_stage(stage, this)
        retrained = retrain(this) if reference else None
        judged = verify(
            this, request_ids=tuple(ids), parent=parent.number, reference=retrained, show_answers=show_answers
        )
        record = register(this, request_ids=tuple(ids), parent=parent.number, judged=judged, forget_md5=pins["forget"])
        champion = promote(record)
        publish(record)
        certify(record)
    return record, champion, tries_after(record)
