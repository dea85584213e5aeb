"""What a privacy officer decides of a request: extension, refusal, legal hold, identity, single rows, recipients told.

Each is one event with who and why, written together with what it changes. A decision that is not allowed any more
changes nothing and says why.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from sqlalchemy import true

from sau.errors import RequestError, some
from tasks.engines.ledger import STILL_HELD, Ledger
from tasks.engines.tables import UNANSWERED, Event, HeldBy, Law, Request, Row, RowDecision, State, deadline

GROUNDS: Mapping[str, Mapping[str, str]] = {
    Law.GDPR: {
        "expression": "Art. 17(3)(a): freedom of expression and information",
        "legal-duty": "Art. 17(3)(b): a legal obligation, or a task in the public interest",
        "public-health": "Art. 17(3)(c): public interest in the area of public health",
        "archiving": "Art. 17(3)(d): archiving in the public interest, research or statistics",
        "legal-claims": "Art. 17(3)(e): establishment, exercise or defence of legal claims",
        "unfounded": "Art. 12(5)(b): manifestly unfounded or excessive",
        "unidentified": "Art. 12(2): the person cannot be identified",
    },
    Law.CCPA: {
        "transaction": "1798.105(d)(1): to complete a transaction or a contract with the person",
        "security": "1798.105(d)(2): to help to ensure security and integrity",
        "debugging": "1798.105(d)(3): to identify and repair errors",
        "free-speech": "1798.105(d)(4): free speech, or another right provided for by law",
        "calecpa": "1798.105(d)(5): the California Electronic Communications Privacy Act",
        "research": "1798.105(d)(6): public or peer-reviewed research",
        "internal-use": "1798.105(d)(7): internal uses that the person can expect",
        "legal-obligation": "1798.105(d)(8): a legal obligation",
    },
}
"""By law, on what ground erasure may be refused, and where that stands."""

APPROVED, RELEASED = "purge approved", "released"
"""Kinds of events."""
MAX_NOTE = 2000
MAX_NAME = 100
_NAMED = 10
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def extend(ledger: Ledger, request_id: str, why: str, actor: str) -> Request:
    """Move the deadline, once and before it has passed: GDPR Art. 12(3) by two months, CCPA by 45 days.

    Raises:
        RequestError: answered, extended already, or past its deadline; no reason.
    """
    request = ledger.get(request_id)
    now = datetime.now(UTC)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    allowed = Request.state.in_(UNANSWERED) & Request.extended_at.is_(None) & (Request.deadline_at >= today)
    later = deadline(request.received_at, request.law, extended=True)
    event = _event("extended", actor, why)
    if not ledger.decide(request_id, allowed, event, extended_at=now, deadline_at=later):
        request = ledger.get(request_id)
        if request.extended_at:
            raise RequestError(f"request {request_id}: was extended on {request.extended_at:%Y-%m-%d}, once is allowed")
        _refuse_state(request, UNANSWERED, "be extended")
        raise RequestError(f"request {request_id}: an extension has to be told by {request.deadline_at:%Y-%m-%d}")
    return ledger.get(request_id)


def refuse(ledger: Ledger, request_id: str, ground: str, why: str, actor: str) -> Request:
    """Refuse a request on a ground of its law.

    Raises:
        RequestError: neither open nor in review; an unknown ground; no reason.
    """
    ground = _ground(ledger.get(request_id), ground)
    event, sources = _event("state", actor, why), (State.OPEN, State.REVIEW)
    values = {"state": State.REFUSED, "ground": ground, "held_at": STILL_HELD}
    if not ledger.decide(request_id, Request.state.in_(sources), event, **values):
        _refuse_state(ledger.get(request_id), sources, "be refused")
    return ledger.get(request_id)


def hold(ledger: Ledger, request_id: str, why: str, actor: str) -> Request:
    """Put a legal hold on a request: no attempt takes it, nothing of it is purged. The clock goes on.

    Raises:
        RequestError: held already; running, refused or withdrawn; no reason.
    """
    sources = (State.OPEN, State.REVIEW, State.FORGOTTEN)
    allowed = Request.state.in_(sources) & Request.held_at.is_(None)
    if not ledger.decide(request_id, allowed, _event(HeldBy.LEGAL_HOLD, actor, why), held_at=datetime.now(UTC)):
        request = ledger.get(request_id)
        if request.held_at:
            how = ledger.held(request.line).get(request_id, HeldBy.LEGAL_HOLD).words
            raise RequestError(
                f"request {request_id}: is held already ({how}) since {request.held_at:%Y-%m-%d}; "
                "`sau request release` ends that"
            )
        _refuse_state(request, sources, "be held")
    return ledger.get(request_id)


def quarantine(ledger: Ledger, request_id: str, why: str) -> bool:
    """Put an open request on hold until a person has looked at it; False where it is not open, or held already."""
    allowed = (Request.state == State.OPEN) & Request.held_at.is_(None)
    return ledger.decide(request_id, allowed, Event(kind=HeldBy.QUARANTINE, note=why), held_at=datetime.now(UTC))


def put_aside(held: Mapping[str, HeldBy]) -> list[str]:
    """Of what keeps requests where they are (`Ledger.held`), the ids of those that wait for a person to look at their
    rows."""
    return [request_id for request_id, by in held.items() if by == HeldBy.QUARANTINE]


def what_next(request_ids: Sequence[str]) -> str:
    """What requests that are put aside wait for, and what a person types; "" where there are none."""
    if not request_ids:
        return ""
    one, shown = len(request_ids) == 1, some(request_ids, _NAMED, " ")
    who = ("1 request is", "waits", "it") if one else (f"{len(request_ids)} requests are", "wait", "them")
    name = request_ids[0] if one else "ID"
    return (
        f"{who[0]} put aside and {who[1]} for a person to decide, no run takes {who[2]} before: {shown}. "
        f"`sau request show {name}` says why; then `sau request release {name} --why WHY` lets it go on, or "
        f"`sau request refuse {name} --ground GROUND --why WHY` refuses it (`sau request grounds` lists them)"
    )


def was_released(ledger: Ledger, request_id: str) -> bool:
    """Whether a person has looked at a request that was in quarantine, and let it go on."""
    kinds = [event.kind for event in ledger.history(request_id)]
    return HeldBy.QUARANTINE in kinds and RELEASED in kinds[kinds.index(HeldBy.QUARANTINE) :]


def release(ledger: Ledger, request_id: str, why: str, actor: str) -> Request:
    """End a legal hold or a quarantine.

    Raises:
        RequestError: there is none; no reason.
    """
    ledger.get(request_id)
    if not ledger.decide(request_id, Request.held_at.is_not(None), _event(RELEASED, actor, why), held_at=None):
        raise RequestError(f"request {request_id}: neither a legal hold nor a quarantine is on it")
    return ledger.get(request_id)


def confirm(ledger: Ledger, request_id: str, how: str, actor: str) -> Request:
    """Say that the person is who they say, and how that was seen (GDPR Art. 12(6)).

    Raises:
        RequestError: answered already; no reason.
    """
    ledger.get(request_id)
    event = _event("identity", actor, how)
    if not ledger.decide(request_id, Request.state.in_(UNANSWERED), event, identity_by=event.actor):
        _refuse_state(ledger.get(request_id), UNANSWERED, "have its identity confirmed")
    return ledger.get(request_id)


def told(ledger: Ledger, request_id: str, recipient: str, actor: str) -> Request:
    """Say that a recipient of the person's data was told of the erasure (GDPR Art. 19).

    Raises:
        RequestError: an unknown request; no recipient.
    """
    ledger.get(request_id)
    ledger.decide(request_id, true(), _event("told", actor, recipient))
    return ledger.get(request_id)


def approve_purge(ledger: Ledger, request_id: str, why: str, actor: str) -> Request:
    """Approve that what was forgotten is removed from every store, for good.

    Raises:
        RequestError: not forgotten, under a legal hold, or approved by the same person already; no reason.
    """
    request = ledger.get(request_id)
    event, allowed = _event(APPROVED, actor, why), (Request.state == State.FORGOTTEN) & Request.held_at.is_(None)
    if event.actor in approvers(ledger, request_id):
        raise RequestError(f"request {request_id}: this person has approved its purge, another one is needed")
    if not ledger.decide(request_id, allowed, event):
        _refuse_state(request := ledger.get(request_id), (State.FORGOTTEN,), "be approved for a purge")
        raise RequestError(f"request {request_id}: is under a legal hold")
    return request


def approvers(ledger: Ledger, request_id: str) -> set[str]:
    """Who has approved the purge of what was carried out last."""
    found: set[str] = set()
    for event in ledger.history(request_id):
        if event.kind == "state":
            found = set()
        elif event.kind == APPROVED:
            found.add(event.actor or "")
    return found


def decide_rows(
    ledger: Ledger,
    request_id: str,
    record_ids: list[str],
    decision: str,
    why: str,
    actor: str,
    *,
    ground: str | None = None,
) -> Request:
    """Decide of single rows what the next attempt does with them.

    Whether the rows are in the data, and whose they are, is the caller's to check, who can see the data.

    Args:
        ground: for which own rows are kept: a partial refusal.

    Raises:
        RequestError: neither open nor in review; an unknown decision or ground; no reason.
    """
    request = ledger.get(request_id)
    if decision not in set(Row):
        raise RequestError(f"decision {decision!r}: has to be one of {', '.join(Row)}")
    if ground is not None:
        ground = _ground(request, ground)
    event, sources = _event(f"rows {decision}", actor, why), (State.OPEN, State.REVIEW)
    rows = [RowDecision(record_id=record, decision=str(decision), ground=ground) for record in record_ids]
    if not ledger.decide(request_id, Request.state.in_(sources), event, rows=rows):
        _refuse_state(ledger.get(request_id), sources, "have its rows decided")
    return ledger.get(request_id)


def checked_text(what: str, value: str, longest: int = MAX_NOTE) -> str:
    """A person's words, without spaces around them; up to `MAX_NAME` characters are a name, of one line.

    Raises:
        RequestError: none, too many, or with characters that would change how a page or terminal shows them.
    """
    value = value.strip()
    odd = _CONTROL.search(value) or (longest <= MAX_NAME and "\n" in value)
    if not value or len(value) > longest or odd:
        raise RequestError(f"{what}: 1 to {longest} characters are needed, none of them a control character")
    return value


def _event(kind: str, actor: str, note: str) -> Event:
    return Event(kind=kind, actor=checked_text("by", actor, MAX_NAME), note=checked_text("why", note))


def _ground(request: Request, ground: str) -> str:
    if ground not in (allowed := GROUNDS[request.law]):
        raise RequestError(f"ground {ground!r}: has to be one of {', '.join(allowed)}")
    return ground


def _refuse_state(request: Request, sources: tuple[State, ...], what: str) -> None:
    if request.state not in sources:
        raise RequestError(f"request {request.id}: is {request.state}, can {what} only while {', '.join(sources)}")
