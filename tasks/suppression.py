"""The suppression list: who was forgotten, by keyed digests of ids and rows, so that nobody comes back unnoticed.

`<home>/suppressed.json` names requests and digests (HMAC-SHA256 under `<home>/keys/suppression.key`); without the key
it says nothing of anybody. It is personal data all the same, kept for one purpose: to keep people out.
"""

import hashlib
import hmac
import json
import secrets
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from sau.data.people import canonical, people_of
from sau.data.records import Row as Record
from sau.errors import DataError, RequestError
from sau.files import write_private
from tasks.engines.keys import kept, key_folder, vault
from tasks.engines.ledger import Ledger
from tasks.engines.settings import settings
from tasks.engines.tables import Row

_KEY = 32
_KEY_FILE = "suppression.key"
_REFUSED = (
    "{what}: brings back people who were forgotten ({words}); take them out, or where somebody has agreed to come "
    "back, `sau suppression lift REQUEST`"
)


class Suppressed(BaseModel):
    """One who was forgotten: keyed digests of the person's id ("" where some of their rows stay) and rows.

    Attributes:
        key: a digest of nothing under the same key, which tells another key; "" of an entry from before there was one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    request_id: str
    line: str
    at: datetime
    subject: str
    rows: tuple[str, ...]
    key: str = ""


_LIST = TypeAdapter(list[Suppressed])


class Suppression:
    """The list of this state folder.

    Raises:
        RequestError: it, or its key, is damaged, or its key is not there.
    """

    def __init__(self) -> None:
        self._file = settings().state / "suppressed.json"
        self._lock = FileLock(settings().state / "suppressed.lock", timeout=settings().database_wait_s)

    def all(self) -> list[Suppressed]:
        """Everybody on it, oldest first."""
        if not self._file.exists():
            return []
        try:
            return _LIST.validate_json(self._file.read_bytes())
        except (ValidationError, OSError):
            raise RequestError(f"{self._file}: damaged, restore it from a backup") from None

    def _known(self) -> list[Suppressed]:
        """Everybody on it, by a key that would know them again: with another, nobody would ever be found."""
        if not (there := self.all()):
            return there
        file = key_folder() / _KEY_FILE
        if not file.is_file():
            raise RequestError(f"{file}: missing, and the suppression list needs it: restore it from a backup")
        if not {entry.key for entry in there} <= {"", self._digest("key", "")}:
            raise RequestError(f"{file}: not the key of the suppression list: restore it from a backup")
        return there

    def add(self, request_id: str) -> None:
        """Put a request's person on the list, by the rows in the vault; who is on it stays as it is.

        Raises:
            RequestError: unknown request.
            VaultError: the rows are not there any more.
        """
        ledger = Ledger(settings().ledger_url)
        request = ledger.get(request_id)
        with self._lock:
            there = self._known()
            if any(entry.request_id == request_id for entry in there):
                return
            stays = any(row.decision == Row.KEEP for row in ledger.decided(request_id).values())
            entry = Suppressed(
                request_id=request_id,
                line=request.line,
                at=datetime.now(UTC),
                subject="" if stays else self._of_person(request.subject_id),
                rows=tuple(sorted({self._of_row(row) for row in vault().open(request_id)})),
                key=self._digest("key", ""),
            )
            self._write([*there, entry])

    def lift(self, request_id: str) -> None:
        """Take a person off the list: they may be in data sets again.

        Raises:
            RequestError: not on it.
        """
        with self._lock:
            there = self.all()
            if all(entry.request_id != request_id for entry in there):
                raise RequestError(f"request {request_id}: not on the suppression list")
            self._write([entry for entry in there if entry.request_id != request_id])

    def found_in(self, rows: Iterable[Record]) -> dict[str, int]:
        """Whom rows bring back: by request id, how many rows are theirs by id or by content."""
        if not (there := self._known()):
            return {}
        of_subject = {entry.subject: entry.request_id for entry in there}
        of_row = {digest: entry.request_id for entry in there for digest in entry.rows}
        counts: dict[str, int] = {}
        for row in rows:
            digests = (self._of_person(person) for person in people_of(row))
            hit = of_row.get(self._of_row(row)) or next((of_subject[d] for d in digests if d in of_subject), None)
            if hit:
                counts[hit] = counts.get(hit, 0) + 1
        return counts

    def refuse(self, rows: Iterable[Record], what: str) -> None:
        """Refuse a data set that brings somebody back.

        Raises:
            DataError: how many rows are of whose request.
        """
        if found := self.found_in(rows):
            words = ", ".join(f"{count} rows of request {request_id}" for request_id, count in found.items())
            raise DataError(_REFUSED.format(what=what, words=words))

    def refuse_people(self, given: Iterable[str], what: str) -> None:
        """Refuse ids one of which is of somebody on the list.

        Raises:
            DataError: of which requests.
        """
        if there := {entry.subject: entry.request_id for entry in self._known() if entry.subject}:
            found = {there[digest] for person in given if (digest := self._of_person(person)) in there}
            if found:
                raise DataError(_REFUSED.format(what=what, words=f"request {', '.join(sorted(found))}"))

    def _write(self, entries: list[Suppressed]) -> None:
        write_private(self._file, _LIST.dump_json(entries, indent=1))

    def _of_person(self, given: str) -> str:
        return self._digest("subject", canonical(given))

    def _of_row(self, row: Record) -> str:
        """Of question and answer alone: ids and other columns may be new."""
        return self._digest("row", json.dumps([_plain(str(row.get(name) or "")) for name in ("question", "answer")]))

    def _digest(self, purpose: str, text: str) -> str:
        key = kept(key_folder() / _KEY_FILE, lambda: secrets.token_bytes(_KEY))
        return hmac.new(key, f"{purpose}/{text}".encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _plain(text: str) -> str:
    """As it is compared: Unicode's compatible form, no case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
