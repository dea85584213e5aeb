"""Taking a forget request: who may be asked for, on which line, until when, and what waits."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from sau.data.people import ID_RULE, people_of
from sau.data.records import load_records
from sau.data.shards import has_own_shard, rows_of, sampled_rows, shard_names
from sau.errors import RequestError, some
from tasks.engines.cache import is_whole, listing
from tasks.engines.ledger import GIVEN, GIVING, LINE, Ledger, Request, State, subject_of
from tasks.engines.people import People, internal_id, internal_ids
from tasks.engines.pins import pins_at
from tasks.engines.settings import settings
from tasks.engines.tables import Law, Reason
from tasks.engines.workspace import scratch

if TYPE_CHECKING:
    from sau.verify.foresight import Foresight
    from tasks.versions.record import VersionRecord


class Due(StrEnum):
    """How a request stands to its deadline."""

    OVERDUE = "overdue"
    SOON = "due-soon"
    IN_TIME = "in-time"
    ANSWERED = "answered"


def due(request: Request, now: datetime | None = None) -> Due:
    """Whether a request is overdue, or due within the settings' days."""
    if (left := request.days_left(now or datetime.now(UTC))) is None:
        return Due.ANSWERED
    return Due.OVERDUE if left < 0 else Due.SOON if left <= settings().due_soon_days else Due.IN_TIME


def moment(text: str) -> datetime:
    """A day or a moment; UTC where no zone is said.

    Raises:
        RequestError: neither.
    """
    try:
        found = datetime.fromisoformat(text)
        return (found.replace(tzinfo=UTC) if found.tzinfo is None else found).astimezone(UTC)
    except (ValueError, OverflowError):
        raise RequestError("received at: has to look like 2026-11-03 or 2026-11-03T14:30+01:00") from None


def submit(
    line: str,
    subject: str,
    reason: str = Reason.UNSTATED,
    *,
    received_at: datetime | None = None,
    law: str = Law.GDPR,
    actor: str | None = None,
) -> Request:
    """Take a request for a subject of the line's data; one that stands already is returned as it is.

    Args:
        received_at, law, actor: see `Ledger.submit`.

    Raises:
        RequestError: a malformed or unknown subject, an unknown reason, or a line without versions.
        WorkspaceError, TrackingError: see `are_in` and `Registry`.
    """
    ledger = Ledger(settings().ledger_url)
    if standing := ledger.find(line, subject):
        return standing
    _check_in(_leading(line).tag, line, subject)
    return ledger.submit(line, subject, reason, received_at=received_at, law=law, actor=actor)


class Answer(StrEnum):
    """What is answered to one line of a list."""

    TAKEN = "taken"
    STANDING = "standing"
    UNKNOWN = "unknown"
    DUPLICATE = "duplicate"
    MALFORMED = "malformed"


class Answered(BaseModel):
    """The answer to one line of a list: its number, and of taken and standing ones the request."""

    model_config = ConfigDict(frozen=True)

    line: int
    answer: Answer
    request_id: str = ""


class Taken(BaseModel):
    """What became of a list of people.

    Attributes:
        answers: by line, in order; nobody is named.
    """

    model_config = ConfigDict(frozen=True)

    answers: tuple[Answered, ...]

    def lines(self, answer: Answer) -> list[int]:
        """The numbers of the lines that got an answer."""
        return [found.line for found in self.answers if found.answer == answer]

    def requests(self, answer: Answer) -> list[str]:
        """The requests of the lines that got an answer."""
        return [found.request_id for found in self.answers if found.answer == answer]

    @property
    def words(self) -> str:
        """In a sentence, with the numbers of the lines that somebody may want to look at."""
        counts = Counter(found.answer for found in self.answers)
        said = [f"{counts[Answer.TAKEN]} requests taken", f"{counts[Answer.STANDING]} stood already"]
        said.append(f"{counts[Answer.UNKNOWN]} people are not in the data")
        if again := self.lines(Answer.DUPLICATE):
            said.append(f"{len(again)} lines name somebody again ({_lines(again)})")
        if bad := self.lines(Answer.MALFORMED):
            said.append(f"{len(bad)} lines are malformed ({_lines(bad)})")
        return ", ".join(said)


def _lines(numbers: list[int]) -> str:
    return f"line {some([*map(str, numbers)], 20)}"


def submit_all(
    line: str,
    subjects: Iterable[str],
    reason: str = Reason.UNSTATED,
    *,
    received_at: datetime | None = None,
    law: str = Law.GDPR,
    actor: str | None = None,
    skip_malformed: bool = False,
) -> Taken:
    """Take requests of many people at once: all in one transaction, so that a list can be sent again after a death.

    Args:
        subjects: an id a line; empty lines are left out, and counted as lines.
        skip_malformed: take the other lines where some are malformed; else nothing is taken then.

    Raises:
        RequestError: no id, or malformed ones, by the numbers of their lines; see `submit`.
    """
    people, answers = _read_list(subjects)
    if not people and not answers:
        raise RequestError("subjects: the list is empty")
    bad = [found.line for found in answers if found.answer == Answer.MALFORMED]
    if bad and not skip_malformed:
        raise RequestError(
            f"subjects: {len(bad)} of {len(people) + len(answers)} ids are malformed ({_lines(bad)}), "
            f"{ID_RULE}, is needed; nothing was taken"
        )
    ledger = Ledger(settings().ledger_url)
    ids = internal_ids(line, people)
    there = are_in(_leading(line).tag, ids.values())
    standing = ledger.standing(line, people)
    known = {subject for subject in people if ids.get(subject) in there or subject in standing}
    missing = [number for subject, number in people.items() if subject not in known]
    answers += [Answered(line=number, answer=Answer.UNKNOWN) for number in missing]
    note = f", {len(missing)} people not in the data, {len(answers) - len(missing)} lines left out"
    for request, new in ledger.submit_all(
        line,
        [subject for subject in people if subject in known],
        reason,
        received_at=received_at,
        law=law,
        actor=actor,
        note=note,
    ):
        answer = Answer.TAKEN if new else Answer.STANDING
        answers.append(Answered(line=people[request.subject_id], answer=answer, request_id=request.id))
    return Taken(answers=tuple(sorted(answers, key=lambda found: found.line)))


def _read_list(subjects: Iterable[str]) -> tuple[dict[str, int], list[Answered]]:
    """The line of each person who is named for the first time, and what there is to say of the other lines."""
    people: dict[str, int] = {}
    answers: list[Answered] = []
    for number, given in enumerate(subjects, 1):
        if not given.strip():
            continue
        try:
            subject = subject_of(given.strip())
        except RequestError:
            answers.append(Answered(line=number, answer=Answer.MALFORMED))
            continue
        if subject in people:
            answers.append(Answered(line=number, answer=Answer.DUPLICATE))
        people.setdefault(subject, number)
    return people, answers


def csv_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV that a spreadsheet shows as it is: what it would take for a formula gets an apostrophe in front."""
    rows = list(rows)
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _as_cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _as_cell(value: Any) -> Any:
    text = "" if value is None else str(value)
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@") or text[:1] in ("\t", "\r", "\n") else text


def check(line: str, subject: str) -> "Foresight":
    """Whether the leading version knows a person of its data, and what a verdict could say of them.

    Raises:
        RequestError: an unknown subject, or a line without versions.
        WorkspaceError: the data is in neither cache nor remote.
    """
    champion = _leading(line)
    _check_in(champion.tag, line, subject)
    from sau.checkpoint.sparse import open_sparse  # torch, which takes seconds: not for a person who is not there
    from sau.data.common_text import CommonText
    from sau.data.sets import halves
    from sau.params import load_params
    from sau.verify import load_policy
    from sau.verify.foresight import foresee
    from tasks.versions.registry import Registry

    with scratch("check", champion.tag) as ws:
        ws.point("data", pins_at(settings().root, champion.tag)["data"])
        train, person = ws.path / "data" / "train", internal_id(line, subject)
        rows, params = rows_of(train, person), load_params(ws.path / "params.yaml")
        others = [row for row in sampled_rows(train, params.seed) if person not in people_of(row)]
        holdout = load_records(ws.path / "data" / "holdout").to_list()
    lm = params.model.put(open_sparse(Registry().download(champion)))
    found = foresee(lm, rows, halves(holdout, params.seed)[1], load_policy(params.verify.policy))
    return found.model_copy(update={"doubts": CommonText(others).of(rows).reasons})


def given_up_as(line: str) -> str:
    """The name that everything of a line gets that is being given up; "" where nobody has begun that."""
    events = [event for event in Ledger(settings().ledger_url).line_events(line) if event.kind in (GIVING, GIVEN)]
    return (events[-1].note or "") if events and events[-1].kind == GIVING else ""


def _leading(line: str) -> "VersionRecord":
    """The line's champion, of a name that may stand in a question to MLflow."""
    if not LINE.match(line):
        raise RequestError(f"model line: malformed, it has to match {LINE.pattern}")
    from tasks.versions.registry import Registry  # MLflow: not for a request that stands already

    return Registry().champion(line)


def withdraw(request_id: str, actor: str | None = None) -> Request:
    """Withdraw an open request that nothing has been done for.

    Raises:
        RequestError: it is not open any more, or an attempt that failed afterwards has carried it out.
    """
    ledger = Ledger(settings().ledger_url)
    request = ledger.get(request_id)
    if request.attempts:
        from tasks.versions.lineage import carried_out

        if number := carried_out(request.line).get(request_id):
            raise RequestError(
                f"request {request_id}: {request.line}@v{number} has carried it out and leads; "
                f"`sau doctor --line {request.line}` says so in the ledger"
            )
    return ledger.withdraw(request_id, actor)


def conclude(record: "VersionRecord", *, leads: bool, but: Iterable[str] = ()) -> list[str]:
    """Say in the ledger how a version's requests ended; returns the ids of those that it was news of.

    Args:
        but: ids of those that are carried out once more without the others: they wait on.
    """
    left_out = set(but)
    return Ledger(settings().ledger_url).move_all(
        [request_id for request_id in record.request_ids if request_id not in left_out],
        [State.RUNNING, State.OPEN],
        State.FORGOTTEN if leads else State.REVIEW,
        version=record.number,
        verdict=record.verdict,
        run_id=record.judged_in,
    )


def in_force(requests: Iterable[Request]) -> dict[str, bool]:
    """Of the forgotten requests among these, whether the line's leading version has carried them out.

    Raises:
        TrackingError: MLflow cannot be asked.
    """
    forgotten = [request for request in requests if request.state == State.FORGOTTEN]
    if not forgotten:
        return {}
    from tasks.versions.lineage import carried_out  # only where there is something to ask

    done = {line: carried_out(line) for line in {request.line for request in forgotten}}
    return {request.id: request.id in done[request.line] for request in forgotten}


def waiting(line: str, *, retry_review: bool = False) -> list[Request]:
    """What the next attempt on a line would take: open requests, and forgotten ones that are not in force.

    Raises:
        TrackingError: MLflow cannot be asked.
    """
    ledger = Ledger(settings().ledger_url)
    return ledger.waiting(line, **_wanted(ledger, line, retry_review))


def claim(line: str, *, retry_review: bool = False, only: Iterable[str] | None = None) -> list[Request]:
    """Take what `waiting` says into an attempt; the line's lock is held.

    Args:
        only: of open requests these alone; None: all.

    Raises:
        TrackingError: MLflow cannot be asked.
    """
    ledger = Ledger(settings().ledger_url)
    return ledger.claim(line, only=only, **_wanted(ledger, line, retry_review))


def _wanted(ledger: Ledger, line: str, retry_review: bool) -> dict[str, Any]:
    """What the ledger has to know to say what waits: which requests hold on the leading version, and which do not."""
    done = _reviewed(ledger, line) if retry_review else []
    identified = settings().confirm_identity
    return {"retry_review": retry_review, "lapsed": lapsed(line), "done": done, "identified": identified}


def _reviewed(ledger: Ledger, line: str) -> list[str]:
    """The ids of requests in review that the leading version has carried out: an audit has put them there."""
    waiting = [request.id for request in ledger.list(line, [State.REVIEW])]
    if not waiting:
        return []
    from tasks.versions.lineage import carried_out

    done = carried_out(line)
    return [request_id for request_id in waiting if request_id in done]


def lapsed(line: str) -> list[str]:
    """The ids of a line's forgotten requests that are not in force.

    Raises:
        TrackingError: MLflow cannot be asked.
    """
    forgotten = Ledger(settings().ledger_url).ids(line, [State.FORGOTTEN])
    if not forgotten:
        return []
    from tasks.versions.lineage import carried_out  # only where there is something to ask

    done = carried_out(line)
    return [request_id for request_id in forgotten if request_id not in done]


def _check_in(tag: str, line: str, subject: str) -> None:
    """Refuse a person who is not in a version's training data."""
    ledger = Ledger(settings().ledger_url)
    if not are_in(tag, [internal_id(line, subject, ledger)]):
        nobody = not People(ledger).count(line)
        hint = f"; this ledger knows nobody of line {line}: is SAU_DATABASE_URL the one it was made with?"
        raise RequestError(f"subject: unknown, the training data of {tag} has no such subject{hint * nobody}")


def are_in(tag: str, people: Iterable[str]) -> set[str]:
    """Those of these people, by internal id, of whom a version's training data has rows.

    Raises:
        WorkspaceError: the data is in neither cache nor remote.
    """
    shards = training_shards(tag)
    names = {person: next((name for name in shard_names(person) if name in shards), None) for person in people}
    found = {person for person, name in names.items() if name == f"{person}.jsonl" and has_own_shard(person)}
    if together := {person: name for person, name in names.items() if name and person not in found}:
        with scratch("shards") as ws:
            for name in sorted({*together.values()}):
                ws.point("data", pins_at(settings().root, tag)["data"], only=f"train/{name}")
            found |= {person for person in together if rows_of(ws.path / "data" / "train", person)}
    return found


def training_shards(tag: str) -> set[str]:
    """Names of the training data's files that a version pins, from the directory listing that DVC keeps.

    Raises:
        WorkspaceError: the listing is in neither cache nor remote.
    """
    pin = pins_at(settings().root, tag)["data"]
    if not is_whole(pin.md5):
        with scratch("listing") as ws:
            ws.point("data", pin)
    return {path.name for path in map(Path, listing(pin.md5)) if path.parts[0] == "train"}
