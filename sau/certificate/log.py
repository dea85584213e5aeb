"""The log of records: a folder of envelopes in order, each with the digest of the one before, and a signed head.

    000001-<request>.json, 000002-<request>.json, ..., head.json

A record that was taken out, put in or exchanged breaks the chain; a tail that was cut off does not, and the head shows
it. A record is written before the head, so a log that is longer than its head says is one whose writer died: its
records are signed and chained, and the next one's head counts them.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sau.certificate import envelope
from sau.certificate.record import PAYLOAD_TYPE, Evidence, Head, Statement
from sau.config import checked
from sau.errors import CertificateError, ConfigError
from sau.files import write_private

HEAD, HEAD_TYPE = "head.json", "application/vnd.sau.head+json"


@dataclass(frozen=True)
class Entry:
    """A record of a log: where it lies, its digest, and what it says."""

    path: Path
    digest: str
    statement: Statement

    @property
    def evidence(self) -> Evidence:
        return self.statement.predicate


def read_record(path: Path, public: str | None) -> Entry:
    """A record file; its signature is verified where a public key is given.

    Raises:
        CertificateError: unreadable, changed, signed by another key, or not such a record.
    """
    content = _bytes(path)
    payload = envelope.opened(content, PAYLOAD_TYPE, public)
    try:
        statement = checked(Statement, payload, "certificate")
    except ConfigError as error:
        raise CertificateError(str(error)) from None
    if public and statement.predicate.signer != envelope.key_id(public):
        raise CertificateError("certificate: it names another signer than the key that was given")
    return Entry(path, envelope.digest(content), statement)


def read_log(folder: Path, public: str | None) -> list[Entry]:
    """All records of a log in order, its chain and its head checked.

    Raises:
        CertificateError: a record is damaged, missing, out of place, or the tail was cut off.
    """
    entries = _chained(folder, public)
    head = _head(folder, public)
    if head is None:
        raise CertificateError(f"{folder}: no {HEAD}, so a tail that was cut off would not show")
    _check_head(folder, entries, head)
    return entries


def append(folder: Path, private: bytes, subjects: list[dict[str, Any]], evidence: dict[str, Any]) -> Entry:
    """Sign a record as the log's next one, then the head; the caller holds the log's lock.

    Args:
        subjects: of the statement.
        evidence: the predicate without its place in the log, time and signer.

    Raises:
        CertificateError: the log is damaged, or another key has signed it.
    """
    public = envelope.public_pem(private)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    entries, head = _chained(folder, public), _head(folder, public)
    if head:
        _check_head(folder, entries, head)
    now = datetime.now(UTC)
    placed = evidence | {
        "sequence": len(entries) + 1,
        "previous": entries[-1].digest if entries else "",
        "issued_at": now,
        "signer": envelope.key_id(public),
    }
    statement = Statement.model_validate({"subject": subjects, "predicate": placed})
    path = folder / f"{len(entries) + 1:06d}-{statement.predicate.request.id}.json"
    write_private(path, content := envelope.sign(statement.to_json(), PAYLOAD_TYPE, private))
    entry = Entry(path, envelope.digest(content), statement)
    sign_head(folder, private, [*entries, entry])
    return entry


def sign_head(folder: Path, private: bytes, entries: list[Entry]) -> None:
    """Write the head of these records."""
    head = Head(size=len(entries), last=entries[-1].digest, at=datetime.now(UTC))
    write_private(folder / HEAD, envelope.sign(head.to_json(), HEAD_TYPE, private))


def _chained(folder: Path, public: str | None) -> list[Entry]:
    if not folder.is_dir():
        raise CertificateError(f"{folder}: no such folder")
    entries: list[Entry] = []
    for number, path in enumerate(sorted(folder.glob("[0-9]*-*.json")), 1):
        entry = read_record(path, public)
        before = entries[-1].digest if entries else ""
        if (entry.evidence.sequence, entry.evidence.previous) != (number, before):
            raise CertificateError(f"{path}: not the record that follows on the one before it")
        entries.append(entry)
    return entries


def _check_head(folder: Path, entries: list[Entry], head: Head) -> None:
    if len(entries) < head.size:
        raise CertificateError(f"{folder}: {len(entries)} records, its head says {head.size}: the tail was cut off")
    if entries[head.size - 1].digest != head.last:
        raise CertificateError(f"{folder}: record {head.size} is not the one that its head names")


def _head(folder: Path, public: str | None) -> Head | None:
    if not (folder / HEAD).is_file():
        return None
    return checked(Head, envelope.opened(_bytes(folder / HEAD), HEAD_TYPE, public), HEAD)


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(envelope.MAX_BYTES + 1)
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}") from None
