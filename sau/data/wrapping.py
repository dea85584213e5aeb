"""Key-encryption keys: in a file that can be rotated, given outright, or behind a command that asks a KMS."""

import base64
import hashlib
import os
import re
import secrets
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sau.data.vault import Vault, Wrapper
from sau.errors import VaultError
from sau.files import write_private

_KEY, _NONCE = 32, 12
_COMMAND_S = 60
_NAME = re.compile(r"command\Z|[0-9a-f]{16}\Z")
"""What key-encryption keys are called."""


class GivenKeys:
    """Key-encryption keys in memory; the first wraps, all unwrap.

    Raises:
        VaultError: one is not 32 bytes.
    """

    def __init__(self, keys: list[bytes]) -> None:
        if not keys or any(len(key) != _KEY for key in keys):
            raise VaultError(f"key-encryption key: {_KEY} bytes are needed, in base64")
        self.keys = {_name(key): key for key in keys}
        self.first = _name(keys[0])

    def knows(self, kek: str) -> bool:
        return kek in self.keys

    def wrap(self, request: str, key: bytes) -> dict[str, str]:
        nonce = secrets.token_bytes(_NONCE)
        sealed = nonce + AESGCM(self.keys[self.first]).encrypt(nonce, key, _purpose(request))
        return {"kek": self.first, "wrapped": base64.b64encode(sealed).decode("ascii")}

    def unwrap(self, request: str, wrapped: dict[str, str]) -> bytes:
        kek = self.keys[wrapped["kek"]]
        sealed = _decoded(wrapped.get("wrapped", ""), f"vault: the key file of {request} is damaged")
        try:
            return AESGCM(kek).decrypt(sealed[:_NONCE], sealed[_NONCE:], _purpose(request))
        except (InvalidTag, ValueError):
            raise VaultError(f"vault: the key file of {request} was changed, or is of another request") from None


class FileKeys(GivenKeys):
    """Key-encryption keys in a folder, a file each, the newest by `current`; made when the first is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if (folder / "current").is_file():
            self._load()
        else:
            self.keys = {}

    def wrap(self, request: str, key: bytes) -> dict[str, str]:
        if not self.keys:
            self._make()
            self._load()
        return super().wrap(request, key)

    def _load(self) -> None:
        current = _read(self.folder / "current").strip()
        if not _NAME.match(current):
            raise VaultError(
                f"vault: {self.folder / 'current'} is damaged: it names the newest of the .kek files there"
            )
        names = [current, *(path.stem for path in self.folder.glob("*.kek") if path.stem != current)]
        super().__init__([_decoded(_read(self.folder / f"{name}.kek"), f"{name}.kek") for name in names])

    def _make(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = secrets.token_bytes(_KEY)
        write_private(self.folder / f"{_name(key)}.kek", base64.b64encode(key))
        write_private(self.folder / "current", _name(key).encode("ascii"))

    def renewed(self) -> "FileKeys":
        """The same folder with a new key that wraps from now on."""
        self._make()
        return FileKeys(self.folder)

    def drop_old(self, *, keep_current: bool) -> None:
        """Overwrite and remove every key, or every one but the current: nothing may be wrapped by them any more."""
        if not keep_current:
            (self.folder / "current").unlink(missing_ok=True)
        for path in self.folder.glob("*.kek"):
            if path.stem != self.first or not keep_current:
                with path.open("r+b") as file:
                    file.write(base64.b64encode(secrets.token_bytes(_KEY)))
                    file.flush()
                    os.fsync(file.fileno())
                path.unlink()


class Command:
    """A command of the user's that wraps and unwraps by a KMS: `COMMAND wrap REQUEST` and `COMMAND unwrap REQUEST`.

    It reads base64 on standard input and writes base64 to standard output; the request id is the encryption context.
    """

    def __init__(self, command: str) -> None:
        self.command = shlex.split(command)

    def knows(self, kek: str) -> bool:
        return kek == "command"

    def wrap(self, request: str, key: bytes) -> dict[str, str]:
        return {"kek": "command", "wrapped": self._run("wrap", request, base64.b64encode(key).decode("ascii"))}

    def unwrap(self, request: str, wrapped: dict[str, str]) -> bytes:
        key = _decoded(self._run("unwrap", request, wrapped.get("wrapped", "")), "vault: the KMS command's answer")
        if len(key) != _KEY:
            raise VaultError(f"vault: the KMS command gave {len(key)} bytes for {request}, a data key has {_KEY}")
        return key

    def _run(self, verb: str, request: str, given: str) -> str:
        try:
            done = subprocess.run(
                [*self.command, verb, request], input=given, capture_output=True, text=True, timeout=_COMMAND_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise VaultError(f"vault: the KMS command cannot be run ({type(error).__name__})") from None
        if done.returncode or not done.stdout.strip():
            raise VaultError(f"vault: the KMS command's {verb} ended with exit code {done.returncode}")
        return done.stdout.strip()


class AnyOf:
    """Several sources of key-encryption keys: the first wraps, each unwraps its own."""

    def __init__(self, sources: list[Wrapper]) -> None:
        self.sources = sources

    def knows(self, kek: str) -> bool:
        return any(source.knows(kek) for source in self.sources)

    def wrap(self, request: str, key: bytes) -> dict[str, str]:
        return self.sources[0].wrap(request, key)

    def unwrap(self, request: str, wrapped: dict[str, str]) -> bytes:
        kek = wrapped.get("kek", "")
        for source in self.sources:
            if source.knows(kek):
                return source.unwrap(request, wrapped)
        named = kek if _NAME.match(kek) else "?"
        raise VaultError(f"vault: the key-encryption key {named} of {request} is not given here")


def vault_of(home: Path, environment: Mapping[str, str]) -> Vault:
    """The vault of a state folder.

    Args:
        environment: SAU_VAULT_COMMAND, else SAU_VAULT_KEY (base64; several by comma, the first wraps), else a file;
            SAU_VAULT_HOME, another state folder whose vault is used.

    Raises:
        VaultError: what is given is no key.
    """
    place = Path(environment.get("SAU_VAULT_HOME") or home)
    return Vault(place / "vault", AnyOf(_sources(place, environment)))


def rotate(vault: Vault, environment: Mapping[str, str]) -> int:
    """Wrap every data key by the source that is given now, by a new key where that is a file; old files go.

    Returns:
        The number of data keys.

    Raises:
        VaultError: a data key cannot be unwrapped; the ones before it are wrapped anew, and nothing is lost.
    """
    sources = _sources(vault.folder.parent, environment)
    if isinstance(sources[0], FileKeys):
        sources[0] = sources[0].renewed()
    count = vault.rewrap(AnyOf(sources))
    for source in sources:
        if isinstance(source, FileKeys):
            source.drop_old(keep_current=source is sources[0])
    return count


def _sources(home: Path, environment: Mapping[str, str]) -> list[Wrapper]:
    """By preference; a folder with key files that another source has replaced still unwraps."""
    folder, sources = home / "keys" / "vault", list[Wrapper]()
    if command := environment.get("SAU_VAULT_COMMAND"):
        sources.append(Command(command))
    if given := environment.get("SAU_VAULT_KEY"):
        sources.append(GivenKeys([_decoded(key, "SAU_VAULT_KEY") for key in given.split(",")]))
    if not sources or (folder / "current").is_file():
        sources.append(FileKeys(folder))
    return sources


def _name(key: bytes) -> str:
    """What a key-encryption key is called: it says nothing of the key."""
    return hashlib.sha256(b"kek/" + key).hexdigest()[:16]


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except (OSError, ValueError):
        raise VaultError(f"vault: {file} is missing or damaged; the rows it guards are lost without a copy") from None


def _purpose(request: str) -> bytes:
    return b"data key/" + request.encode()


def _decoded(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except ValueError:
        raise VaultError(f"{what}: not base64") from None
