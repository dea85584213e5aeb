"""Files that are written whole or not at all, and read by their owner only."""

import os
import secrets
from pathlib import Path


def write_private(path: Path, content: bytes) -> None:
    """Put content at a path in one step: who dies on the way leaves what was there, and nobody else may read it."""
    beside = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
