"""A purge from the desk: a process of its own, which goes on when the desk ends, and how it stands."""

import contextlib
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from sau.certificate.record import Cleaned
from sau.errors import CertificateError, RequestError
from tasks.certify import latest
from tasks.engines.leases import last_held
from tasks.engines.ledger import Ledger, Request
from tasks.engines.settings import settings
from tasks.purge import check_purge, is_begun, is_purged

_LAST_LINES = 20

children: dict[str, subprocess.Popen[bytes]] = {}
"""What this desk has begun, by request."""
_starting = threading.Lock()


@dataclass(frozen=True)
class Purging:
    """How the purge of a request stands.

    Attributes:
        running: by this desk, or by anybody on the request's line.
        begun, done: begun and not finished, whoever began it; finished.
        said: the last lines of what this desk's purge has said.
        stores: what each store came to, by the signed record; empty where none was signed.
    """

    running: bool
    begun: bool
    done: bool
    said: tuple[str, ...]
    stores: tuple[Cleaned, ...]

    @property
    def partial(self) -> bool:
        """Whether something is left in a store, and is to be tried again."""
        return any(cleaned.residual for cleaned in self.stores)


def start(request_id: str, by: str) -> None:
    """Begin a purge, or go on with one that died or was partial.

    Args:
        by: who decided.

    Raises:
        RequestError: see `tasks.purge.check_purge`; or a purge is under way on the line.
    """
    request = Ledger(settings().ledger_url).get(request_id)
    check_purge(request_id)
    with _starting:
        if _is_running(request):
            raise RequestError(f"request {request_id}: a purge is under way on line {request.line}")
        log = _log(request_id)
        log.parent.mkdir(mode=0o700, exist_ok=True)
        with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as said:
            children[request_id] = subprocess.Popen(
                [sys.executable, "-m", "sau", "purge", request_id, "--line", request.line, "--yes", f"--by={by}"],
                cwd=settings().root, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
            )  # fmt: skip


def how_it_stands(request: Request) -> Purging:
    """Of a request's purge, from its process, its journal and the signed records."""
    stores: tuple[Cleaned, ...] = ()
    with contextlib.suppress(RequestError, CertificateError):
        stores = tuple(latest(request.id).evidence.purge)
    said: tuple[str, ...] = ()
    if (log := _log(request.id)).is_file():
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        said = tuple(lines[-_LAST_LINES:])
    return Purging(
        running=_is_running(request), begun=is_begun(request.id), done=is_purged(request.id), said=said, stores=stores
    )


def _is_running(request: Request) -> bool:
    child = children.get(request.id)
    if child is not None and child.poll() is None:
        return True
    held = last_held(Ledger(settings().ledger_url), request.line, seconds=settings().lease_s)
    return held is not None and held.now and held.purpose == "purge"


def _log(request_id: str) -> Path:
    return settings().state / "desk" / f"purge-{request_id}.log"
