"""Work that several processes of this machine do together: torchrun starts them, the first one's result comes back.

What they are given may hold rows: it lies in a file that is sealed by a key of its own, which only their environment
has, and goes with the work. Who is killed over it leaves noise below the cache, which goes with the next purge.
"""

import base64
import logging
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sau.errors import SauError, WorkspaceError
from sau.files import write_private
from sau.models.placement import repeatable
from sau.models.ranks import Ranks, together
from tasks.engines.leases import fence
from tasks.engines.pins import ORPHANED, child, keep_log, last_words
from tasks.engines.settings import KEPT, settings

Result = TypeVar("Result")

_KEY = "SAU_SEVERAL_KEY"
_WORK, _ANSWER = "work", "answer"
_NONCE = 12

log = logging.getLogger("sau")


def on_several(processes: int, device: str, name: str, work: Callable[[Ranks], Result]) -> Result:
    """What `work` returns on the first of so many processes, which all do it together; their debug log is ours.

    Args:
        device: see `sau.models.sharding.joined`.
        name: of the work, for errors.
        work: with all that it needs, and its result, to be pickled.

    Raises:
        SauError: what it raised.
        WorkspaceError: one of them has ended otherwise.
        LeaseError: meanwhile another attempt has the line.
    """
    fence()
    key, place = AESGCM.generate_key(256), settings().state / KEPT
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix=".several-", dir=place) as beside:
        folder, said = Path(beside), list[str]()
        write_private(folder / _WORK, _sealed(key, (device, work)))
        starter = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [sys.executable, ORPHANED, *starter, "-m", __name__, beside]
        own = {_KEY: base64.b64encode(key).decode("ascii")}
        with child(command, settings().root, own) as process:
            assert process.stdout
            for line in process.stdout:
                said = [*said[-1000:], line.rstrip()]
                log.debug("%s", line.rstrip())
            ended = process.wait()
        fence()
        answer: Any = _opened(key, folder / _ANSWER) if (folder / _ANSWER).is_file() else None
    if isinstance(answer, SauError):
        raise answer
    if ended or answer is None:
        raise WorkspaceError(
            f"{name}: one of its {processes} processes has ended ({last_words(said) or f'exit {ended}'}); all of it: "
            f"{keep_log(name, said)}"
        )
    return answer


def _sealed(key: bytes, content: Any) -> bytes:
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, pickle.dumps(content), None)


def _opened(key: bytes, file: Path) -> Any:
    """What was sealed; nobody without the key can have written it."""
    sealed = file.read_bytes()
    return pickle.loads(AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], None))


def _main() -> None:
    """One of the processes."""
    from sau.cli.stage import one_of_several

    processes, rank = one_of_several()
    folder, key = Path(sys.argv[1]), base64.b64decode(os.environ.pop(_KEY))
    if rank == 0:
        logging.basicConfig(format="%(message)s", stream=sys.stdout)
        log.setLevel(logging.DEBUG)
    try:
        device, work = _opened(key, folder / _WORK)
        with repeatable(), together(processes, device) as ranks:
            answer = work(ranks)
    except SauError as error:
        answer = error
    except ConnectionError as error:
        sys.exit(str(error))
    if rank == 0:
        write_private(folder / _ANSWER, _sealed(key, answer))
    elif isinstance(answer, SauError):
        sys.exit(f"{type(answer).__name__}: {answer}")


if __name__ == "__main__":
    _main()
