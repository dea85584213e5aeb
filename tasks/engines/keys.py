"""Secret keys: each made at first use in a file that only its owner reads, or given by the environment."""

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from sau.certificate import weights
from sau.certificate.envelope import new_key
from sau.data.vault import Vault
from sau.data.wrapping import vault_of
from sau.files import write_private
from tasks.engines.settings import settings


def signing_key() -> bytes:
    """The private key that signs evidence records, PEM: SAU_SIGNING_KEY, else made at first use."""
    if given := settings().signing_key:
        return given.encode()
    return kept(key_folder() / "signing.pem", new_key)


def weights_key() -> bytes:
    """The private key that signs models' files for OpenSSF's model-signing, PEM, made at first use."""
    return kept(key_folder() / "weights.pem", weights.new_key)


def vault() -> Vault:
    """The vault of this state folder; its key-encryption key by SAU_VAULT_COMMAND, SAU_VAULT_KEY, or a file."""
    return vault_of(settings().state, os.environ)


def key_folder() -> Path:
    """Where keys lie below the state folder."""
    folder = settings().state / "keys"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def kept(path: Path, make: Callable[[], bytes]) -> bytes:
    """A secret's bytes, made by the first process that asks; readable by its owner only."""
    if not path.is_file():
        own = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
        write_private(own, make())
        with contextlib.suppress(FileExistsError):  # another process was first
            os.link(own, path)
        own.unlink()
    return path.read_bytes()
