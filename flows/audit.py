"""The audit: one retrained model for all who were forgotten since the last one, and both nulls side by side."""

import logging

from pydantic import BaseModel, ConfigDict

from flows.attempt import attempt, line_lock
from flows.retrain import reference_line, retrain
from tasks.audit import Audited, audit_version, prepare_audit
from tasks.engines.ledger import Ledger, State
from tasks.engines.orchestration import flow, once_for_all_missed
from tasks.engines.settings import settings
from tasks.publish import publish
from tasks.purge import is_purged
from tasks.reconcile import mend
from tasks.versions.lineage import chain
from tasks.versions.origin import check_retrainable
from tasks.versions.registry import Registry

log = logging.getLogger("sau")

REASON = "audit: the nulls disagree"


class Audit(BaseModel):
    """What a run of the flow came to; no request where nothing was due."""

    model_config = ConfigDict(frozen=True)

    champion: str = ""
    reference: str = ""
    run_id: str = ""
    requests: tuple[Audited, ...] = ()


@flow(name="audit", flow_run_name="audit {line}", on_running=[once_for_all_missed])
def audit(line: str, again: bool = False) -> Audit:
    """Retrain one model without everybody forgotten since the last audit, and judge each of them again beside it.

    Where the two nulls contradict each other, the request goes to `review`, for a person to decide.

    Args:
        again: also those that an earlier audit has judged.

    Raises:
        RequestError: the stores contradict each other, and a person has to decide.
        SauError: whatever a step refuses.
    """
    with line_lock(line, "audit"):
        mend(line, reference_line(line))
        champion = Registry().champion(line)
        links = [link for link in chain(line, champion.number) if link.request_ids and (again or not link.audited)]
        due = [link for link in links if not any(is_purged(request_id) for request_id in link.request_ids)]
        if len(due) < len(links):
            log.info("%d versions are left out: rows of theirs were purged", len(links) - len(due))
        if not due:
            log.info("nobody on %s is due for an audit", line)
            return Audit(champion=champion.tag)
        check_retrainable(champion)
        found: list[Audited] = []
        inputs = (champion.number, [link.number for link in due])
        with attempt("audit", line, *inputs, run_name="audit", tags={"parent": champion.tag}) as this:
            prepare_audit(this, champion)
            reference = retrain(this)
            for link in due:
                found += audit_version(this, link, champion, reference)
                publish(Registry().get(line, link.number))
        ledger = Ledger(settings().ledger_url)
        for audited in found:
            if not audited.agrees:
                log.warning("request %s: %s", audited.request_id, audited.words)
                ledger.move(audited.request_id, [State.FORGOTTEN], State.REVIEW, last_error=REASON)
        return Audit(champion=champion.tag, reference=reference.tag, run_id=this.run_id, requests=tuple(found))
