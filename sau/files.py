"""Files that are written whole or not at all, and read by their owner only; and files of others, read up to a size."""

import os
import secrets
from pathlib import Path


def read_bounded(path: Path, most: int) -> bytes:
    """A file's bytes, of which somebody else has decided how many there are.

    Raises:
        OSError: it cannot be read.
        ValueError: more than `most` bytes, or the path is none.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"more than {most} bytes")
    return content


def write_private(path: Path, content: bytes) -> None:
    """Put content at a path in one step: who dies on the way leaves what was there, and nobody else may read it."""
    beside = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
