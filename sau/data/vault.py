"""The vault: the rows of a request in one encrypted file, opened in memory only, and shredded by its key.

    <vault>/<request>.sealed    the rows, AES-256-GCM under the request's own data key; associated data: the request id
    <vault>/<request>.key       that data key, wrapped by a key-encryption key

The same rows are the same sealed file, so DVC may pin it and a stage may depend on it: what a version was to forget
comes back as long as the key is there, and every copy of the file, in cache, remote or backup, is noise once it is
gone. Wrapped keys are written anew when the key-encryption key is rotated.
"""

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sau.data.records import Row
from sau.errors import VaultError
from sau.files import write_private

SEALED = ".sealed"
_MAGIC = b"SAU1"
_NONCE, _KEY = 12, 32
_REQUEST = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")


class Wrapper(Protocol):
    """What wraps data keys. See `sau.data.wrapping`."""

    def knows(self, kek: str) -> bool:
        """Whether it unwraps what this key-encryption key has wrapped."""
        ...

    def wrap(self, request: str, key: bytes) -> dict[str, str]:
        """A wrapped key as JSON-ready fields, `kek` (which key-encryption key) among them."""
        ...

    def unwrap(self, request: str, wrapped: dict[str, str]) -> bytes:
        """The data key.

        Raises:
            VaultError: the key-encryption key is not there, or the fields are of another request.
        """
        ...


class Vault:
    """Requests' rows in a folder.

    Args:
        folder: made on first use, open to its owner only.
    """

    def __init__(self, folder: Path, wrapper: Wrapper) -> None:
        self.folder, self.wrapper = folder, wrapper

    def seal(self, request: str, rows: Iterable[Row]) -> Path:
        """Put rows into the vault; the same rows again are the same file, byte for byte.

        Returns:
            The sealed file.

        Raises:
            VaultError: a malformed request id, the request was shredded, or its key cannot be had.
        """
        content = _canonical(rows)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file, key = self.sealed(request), self._key(request)
        if file.is_file() and self._open(request, file.read_bytes(), key) == content:
            return file
        nonce = secrets.token_bytes(_NONCE)
        write_private(file, _MAGIC + nonce + AESGCM(key).encrypt(nonce, content, request.encode()))
        return file

    def open(self, request: str, sealed: bytes | None = None) -> list[Row]:
        """The rows of a request, in memory.

        Args:
            sealed: a copy of the sealed file, as a version pins it; default: the vault's own.

        Raises:
            VaultError: no such request, shredded, damaged, or the key-encryption key is not there.
        """
        key = self.data_key(request)
        if sealed is None:
            try:
                sealed = self.sealed(request).read_bytes()
            except FileNotFoundError:
                raise VaultError(f"vault: {request} is not in it") from None
        content = self._open(request, sealed, key).decode("utf-8", "surrogatepass")
        return [json.loads(line) for line in content.split("\n") if line]

    def commitment(self, request: str) -> str:
        """HMAC-SHA256 of a request's rows under a key derived from its data key: it binds, and it tells nothing.

        Raises:
            VaultError: see `open`.
        """
        content = _canonical(self.open(request))
        return hmac.new(self._derived(request, b"commitment"), content, hashlib.sha256).hexdigest()

    def state(self, request: str) -> str:
        """`held`, `shredded`, or `none` where the request was never put in."""
        if self._shredded(request).is_file():  # said first, so a key that is half gone is not held
            return "shredded"
        return "held" if self._wrapped(request).is_file() else "none"

    def requests(self) -> list[str]:
        """Ids of the requests whose keys are held, sorted."""
        named = (path.stem for path in self.folder.glob("*.key") if _REQUEST.match(path.stem))
        return sorted(request for request in named if self.state(request) == "held")

    def shredded(self) -> set[str]:
        """Ids of the requests whose keys were shredded."""
        return {path.stem for path in self.folder.glob("*.shredded")}

    def sealed(self, request: str) -> Path:
        """Where a request's sealed file lies."""
        return self.folder / f"{_checked(request)}{SEALED}"

    def shred(self, request: str) -> None:
        """Make a request's rows unreadable, here and in every copy; to do it again changes nothing.

        The wrapped key is overwritten and removed; where a disk keeps what was overwritten, rotating the key-encryption
        key afterwards makes that worthless too.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self._shredded(request), b"")
        for path in (self._wrapped(request), self.sealed(request)):
            with contextlib.suppress(FileNotFoundError):
                with path.open("r+b") as file:
                    file.write(secrets.token_bytes(path.stat().st_size))
                    file.flush()
                    os.fsync(file.fileno())
                path.unlink()

    def rewrap(self, wrapper: Wrapper) -> int:
        """Wrap every data key anew; who dies on the way goes on by doing it again.

        Returns:
            The number of keys.

        Raises:
            VaultError: a key cannot be unwrapped.
        """
        for request in self.requests():
            key = wrapper.unwrap(request, self._fields(request))
            write_private(self._wrapped(request), json.dumps(wrapper.wrap(request, key)).encode())
        self.wrapper = wrapper
        return len(self.requests())

    def data_key(self, request: str) -> bytes:
        """A request's data key, unwrapped.

        Raises:
            VaultError: there is none, or it cannot be unwrapped.
        """
        return self.wrapper.unwrap(request, self._fields(request))

    def _fields(self, request: str) -> dict[str, str]:
        if self.state(request) != "held":
            if self.state(request) == "shredded":
                raise VaultError(f"vault: the key of {request} was shredded")
            raise VaultError(
                f"vault: the key of {request} is not in it; another state folder's is used by SAU_VAULT_HOME"
            )
        try:
            wrapped = json.loads(self._wrapped(request).read_bytes())
        except (OSError, ValueError, RecursionError):
            wrapped = None
        if not (
            isinstance(wrapped, dict)
            and {"kek", "wrapped"} <= wrapped.keys()
            and all(isinstance(value, str) for value in wrapped.values())
        ):
            raise VaultError(f"vault: the key file of {request} is damaged")
        return wrapped

    def _key(self, request: str) -> bytes:
        """The data key, made where there never was one; the first of two writers wins."""
        if self.state(request) == "shredded":
            raise VaultError(f"vault: {request} was shredded, nothing is put in for it again")
        if not self._wrapped(request).is_file():
            own = self.folder / f".{request}-{secrets.token_hex(8)}"
            write_private(own, json.dumps(self.wrapper.wrap(request, secrets.token_bytes(_KEY))).encode())
            with contextlib.suppress(FileExistsError):
                os.link(own, self._wrapped(request))
            own.unlink()
        return self.data_key(request)

    def _derived(self, request: str, purpose: bytes) -> bytes:
        return HKDF(SHA256(), _KEY, salt=None, info=purpose + b"/" + request.encode()).derive(self.data_key(request))

    def _open(self, request: str, sealed: bytes, key: bytes) -> bytes:
        head = len(_MAGIC) + _NONCE
        if not sealed.startswith(_MAGIC) or len(sealed) < head:
            raise VaultError(f"vault: the sealed file of {request} is not one, or was cut off")
        try:
            return AESGCM(key).decrypt(sealed[len(_MAGIC) : head], sealed[head:], request.encode())
        except InvalidTag:
            raise VaultError(f"vault: the sealed file of {request} was changed, or is of another request") from None

    def _wrapped(self, request: str) -> Path:
        return self.folder / f"{_checked(request)}.key"

    def _shredded(self, request: str) -> Path:
        return self.folder / f"{_checked(request)}.shredded"


def forget_rows(folder: Path) -> list[Row] | None:
    """The rows of a folder of sealed files, by the vault of `reading_with`; None where it holds none of them.

    Raises:
        VaultError: no vault was given, or a file cannot be opened.
    """
    files = sorted(folder.glob(f"*{SEALED}"))
    if not files:
        return None
    if (vault := _reading.get()) is None:
        raise VaultError(f"{folder}: its rows are sealed, and no vault was given to open them")
    return [row for file in files for row in vault.open(file.stem, file.read_bytes())]


@contextlib.contextmanager
def reading_with(vault: Vault) -> Iterator[None]:
    """While the block runs, sealed rows are opened by this vault."""
    token = _reading.set(vault)
    try:
        yield
    finally:
        _reading.reset(token)


_reading: ContextVar[Vault | None] = ContextVar("vault", default=None)


def _canonical(rows: Iterable[Row]) -> bytes:
    lines = [json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows]
    return "".join(sorted(lines)).encode("utf-8", "surrogatepass")


def _checked(request: str) -> str:
    if not _REQUEST.match(request):
        raise VaultError(f"vault: a request id has to match {_REQUEST.pattern}")
    return request
