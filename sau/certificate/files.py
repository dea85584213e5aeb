"""The files a record is about: their digests, and whether a folder holds them."""

import hashlib
from pathlib import Path
from typing import Any

from sau.certificate.record import Statement
from sau.errors import CertificateError, one_line


def subjects_of(folder: Path) -> list[dict[str, Any]]:
    """Every file below a folder by name and SHA-256, as a statement's subjects."""
    return [
        {"name": path.relative_to(folder).as_posix(), "digest": {"sha256": _sha256(path)}}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


def check_subjects(statement: Statement, folder: Path) -> None:
    """Refuse a folder that does not hold the record's files, byte for byte and no other.

    Raises:
        CertificateError: which file is missing, changed or new.
    """
    if not folder.is_dir():
        raise CertificateError(f"{folder}: no such folder")
    wanted = {subject.name: subject.digest.sha256 for subject in statement.subject}
    found = {subject["name"]: subject["digest"]["sha256"] for subject in subjects_of(folder)}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            how = "is missing" if name not in found else "is not in the record" if name not in wanted else "differs"
            raise CertificateError(f"{folder}: {one_line(name)} {how}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
