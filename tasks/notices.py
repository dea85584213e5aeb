"""Notices to a person of what was decided of their request, from the ledger's decisions."""

from sau.certificate.notice import About, Notice, write_notice
from sau.errors import RequestError
from tasks.engines.decisions import MAX_NOTE, checked_text
from tasks.engines.ledger import Ledger
from tasks.engines.settings import settings
from tasks.engines.tables import Request, Row, RowDecision, State, deadline


def notices_of(request: Request) -> list[About]:
    """What a person can be told of: the newest decision last, as far as it holds."""
    ledger = Ledger(settings().ledger_url)
    found = {About.EXTENSION: request.extended_at} if request.extended_at else {}
    if kept := _kept(ledger, request.id):
        found[About.PARTIAL] = max(row.at for row in kept)
    if request.state == State.REFUSED:
        found[About.REFUSAL] = request.updated_at
    return sorted(found, key=lambda about: found[about])


def notice(
    request_id: str, about: About | None = None, *, say: str = "", language: str = "en", html: bool = False
) -> str:
    """The letter to a person about what was decided of their request.

    Of a refusal the reason is its ground, of an extension what was noted as its reason.

    Args:
        about: which decision; None: the newest.
        say: what else the person is told; of an extension in the place of what was noted.

    Raises:
        RequestError: an unknown request, or nothing of that kind was decided.
        ConfigError: no such language.
    """
    ledger = Ledger(settings().ledger_url)
    request = ledger.get(request_id)
    there = notices_of(request)
    if not there or (about is not None and about not in there):
        what = f"has no {about}" if about else "was neither refused nor extended"
        raise RequestError(f"request {request_id}: {what}, so there is nothing to tell")
    about = about or there[-1]
    if say:
        say = checked_text("say", say, MAX_NOTE)
    history = ledger.history(request_id)
    kept = _kept(ledger, request_id)
    grounds: tuple[str, ...] = (request.ground or "",)
    was_due = None
    if about == About.REFUSAL:
        decided_at = next(e.at for e in reversed(history) if (e.kind, e.state) == ("state", State.REFUSED))
    elif about == About.PARTIAL:
        grounds, decided_at = tuple(dict.fromkeys(row.ground or "" for row in kept)), max(row.at for row in kept)
    else:
        extended = next(event for event in reversed(history) if event.kind == "extended")
        grounds, decided_at = (), extended.at
        was_due, say = deadline(request.received_at, request.law), say or extended.note or ""
    told = Notice(
        about=about, request_id=request_id, law=request.law, received_at=request.received_at, decided_at=decided_at,
        deadline_at=request.deadline_at, was_due_at=was_due, grounds=grounds, num_records=len(kept), say=say,
    )  # fmt: skip
    return write_notice(told, language=language, html=html)


def _kept(ledger: Ledger, request_id: str) -> list[RowDecision]:
    """The person's own rows that were kept on a ground, as far as that holds."""
    return [row for row in ledger.decided(request_id).values() if row.decision == Row.KEEP and row.ground]
