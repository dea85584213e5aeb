"""Files that are written whole or not at all, some for their owner only; and files of others, read up to a size."""

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


def put(aside: Path, target: Path) -> None:
    """Rename a file that was written aside to its name: on disk, with the name, before anything that comes after."""
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_private(path: Path, content: bytes) -> None:
    """Put content at a path in one step: who dies on the way leaves what was there, and nobody else may read it."""
    beside = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
