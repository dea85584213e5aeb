"""Taking a forget request: who may be asked for, and on which line."""

import json
from pathlib import Path

from sau.data.records import SUBJECT_ID
from sau.errors import RequestError
from tasks.engines.ledger import Ledger, Request
from tasks.engines.settings import settings
from tasks.engines.workspace import Workspace, pins_at


def submit(line: str, subject: str, reason: str) -> Request:
    """Take a request for a subject of the line's data; one that stands already is returned as it is.

    Raises:
        RequestError: a malformed or unknown subject, an unknown reason, or a line without versions.
        WorkspaceError, TrackingError: see `subjects_at` and `Registry`.
    """
    ledger = Ledger(settings().ledger_url)
    if standing := ledger.find(line, subject):
        return standing
    if not SUBJECT_ID.match(subject):
        raise RequestError(f"subject: malformed, it has to match {SUBJECT_ID.pattern}")
    from tasks.versions.registry import Registry  # MLflow: not for a request that stands already

    tag = Registry().champion(line).tag
    if subject not in subjects_at(tag):
        raise RequestError(f"subject: unknown, the training data of {tag} has no such subject")
    return ledger.submit(line, subject, reason)


def subjects_at(tag: str) -> set[str]:
    """Subject ids of the training data that a version pins, from the directory listing that DVC keeps.

    Raises:
        WorkspaceError: the listing is in neither cache nor remote.
    """
    pin = pins_at(settings().root, tag)["data"]
    listing = settings().root / ".dvc" / "cache" / "files" / "md5" / pin.md5[:2] / pin.md5[2:]
    if not listing.is_file():
        ws = Workspace("listing").open()
        try:
            ws.point("data", pin)
        finally:
            ws.close()
    paths = [Path(entry["relpath"]) for entry in json.loads(listing.read_text(encoding="utf-8"))]
    return {path.stem for path in paths if path.parts[0] == "train"}
