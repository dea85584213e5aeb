"""Weight files made small without losing a bit: byte planes, then zstd.

A plane holds the same byte of every number: signs and exponents, which are alike from weight to weight, end up beside
each other, and so do the zeros of an XOR of two versions. Works in chunks, so memory does not grow with the model.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import zstandard

from sau.errors import CheckpointError

LEVEL = 3

CHUNK_BYTES = 1 << 24


def read_chunks(source: Path) -> Iterator[bytes]:
    """A file's bytes, CHUNK_BYTES at a time."""
    with source.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def squeeze(chunks: Iterable[bytes], target: Path, *, itemsize: int) -> None:
    """Write chunks of CHUNK_BYTES each (the last may be shorter) as one zstd frame of byte planes.

    Args:
        itemsize: bytes per number; the file's numbers have to start at multiples of it.
    """
    with target.open("wb") as file, zstandard.ZstdCompressor(level=LEVEL).stream_writer(file) as writer:
        for chunk in chunks:
            writer.write(_split(chunk, itemsize))


def unsqueeze(source: Path, *, itemsize: int) -> Iterator[bytes]:
    """The chunks that `squeeze` was given; fewer where the file was cut short.

    Raises:
        CheckpointError: not a zstd frame.
    """
    try:
        with source.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
            while chunk := reader.read(CHUNK_BYTES):
                yield _join(chunk, itemsize)
    except zstandard.ZstdError:
        raise CheckpointError(f"{source}: not readable (zstd)") from None


def _split(chunk: bytes, itemsize: int) -> bytes:
    """Numbers to planes; bytes behind the last whole number stay where they are."""
    whole = len(chunk) - len(chunk) % itemsize
    return np.frombuffer(chunk[:whole], np.uint8).reshape(-1, itemsize).T.tobytes() + chunk[whole:]


def _join(chunk: bytes, itemsize: int) -> bytes:
    """The inverse of `_split`."""
    whole = len(chunk) - len(chunk) % itemsize
    return np.frombuffer(chunk[:whole], np.uint8).reshape(itemsize, -1).T.tobytes() + chunk[whole:]
