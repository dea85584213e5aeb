"""Residue: secrets looked for in files, in every encoding that software here is known to leave them in.

A hit proves that something is there. No hit proves nothing: it says where was looked, and in what forms.
"""

import base64
import binascii
import contextlib
import gzip
import hashlib
import io
import json
import re
import sqlite3
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from sau.data.needles import Needles

MIN_BYTES = 6
"""Shorter secrets are in anything."""
MAX_UNPACKED = 256 << 20
"""Longer files are searched as they are and not unpacked, and of what a file unpacks to this much is searched."""

_BASE64_RUN = re.compile(rb"[A-Za-z0-9+/]{24,}={0,2}")
_DEPTH = 3
_ROWS = 64
_TOGETHER = 1 << 18


class Hit(BaseModel):
    """Where secrets were found.

    Attributes:
        where: the file, or what it is part of.
        labels: which secrets, by the name the caller gave, never by their text.
        forms: how it was found, as `raw` or `gzip: utf-16`.
    """

    model_config = ConfigDict(frozen=True)

    where: str
    labels: tuple[str, ...]
    forms: tuple[str, ...]


class Searcher:
    """Looks for secrets, each under a label; the same content is searched once.

    Args:
        secrets: text by label; those shorter than `MIN_BYTES` bytes are left out, see `too_short`.

    Attributes:
        cut_off: how many contents so far were, or unpacked to, more than `MAX_UNPACKED`, and were not all unpacked.
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        long = {label: text for label, text in secrets.items() if len(text.encode("utf-8", "replace")) >= MIN_BYTES}
        self.too_short = sorted(secrets.keys() - long.keys())
        self._needles = Needles((n, (label, form)) for label, text in long.items() for form, n in encodings(text))
        self._known: dict[bytes, set[tuple[str, str]]] = {}
        self.cut_off = 0

    def in_file(self, path: Path) -> Hit | None:
        """Search a file: its name, its bytes, what they unpack to, and the values of a database.

        Raises:
            OSError: it cannot be read.
        """
        with path.open("rb") as file:
            content = file.read(MAX_UNPACKED + 1)
            if len(content) <= MAX_UNPACKED:
                found = set(self.in_bytes(content))
            else:
                found = self._needles.within(content)
                self.cut_off += 1
                while more := file.read(MAX_UNPACKED):  # with what a secret may have begun in before
                    content = content[len(content) - self._needles.longest :] + more
                    found |= self._needles.within(content)
        names = self._needles.within(path.name.encode("utf-8", "surrogateescape"))
        named = {(label, f"name: {form}") for label, form in names}
        where = path.with_name("(a name that is one of the secrets)") if named else path
        if path.suffix in (".db", ".sqlite", ".sqlite3"):
            values = (self._needles.within(many) for many in _together(_values(path)))
            found |= {(label, f"database: {form}") for pairs in values for label, form in pairs}
        return hit(str(where), found | named)

    def in_bytes(self, content: bytes) -> set[tuple[str, str]]:
        """(label, form) of all that is found in some content and in what it unpacks to."""
        key = hashlib.sha256(content).digest()
        if key not in self._known:
            room = Room()
            self._known[key] = self._search(content, _DEPTH, room)
            self.cut_off += room.ended or len(content) > MAX_UNPACKED
        return self._known[key]

    def _search(self, content: bytes, depth: int, room: "Room") -> set[tuple[str, str]]:
        found = self._needles.within(content)
        if depth:
            for how, view in unpacked(content, room):
                found |= {(label, f"{how}: {form}") for label, form in self._search(view, depth - 1, room)}
        return found


class Room:
    """How many bytes a file may still unpack to, what is packed within what is packed included.

    Attributes:
        ended: whether anything was cut off.
    """

    def __init__(self) -> None:
        self.left, self.ended = MAX_UNPACKED, False

    def take(self, view: bytes) -> bytes:
        """The part of a view that there is room for."""
        self.ended |= len(view) >= self.left
        view = view[: self.left]
        self.left -= len(view)
        return view


def _together(values: Iterable[bytes]) -> Iterator[bytes]:
    """Values joined by zero bytes, some at a time."""
    held: list[bytes] = []
    size = 0
    for value in values:
        held.append(value)
        size += len(value)
        if size > _TOGETHER:
            yield b"\0".join(held)
            held, size = [], 0
    yield b"\0".join(held)


def hit(where: str, found: Iterable[tuple[str, str]]) -> Hit | None:
    """What was found somewhere as a hit; None where that is nothing."""
    pairs = list(found)
    if not pairs:
        return None
    labels, forms = ({pair[place] for pair in pairs} for place in (0, 1))
    return Hit(where=where, labels=tuple(sorted(labels)), forms=tuple(sorted(forms)))


def encodings(secret: str) -> list[tuple[str, bytes]]:
    """A secret's bytes under each encoding that is looked for as such, without any twice."""
    raw = secret.encode("utf-8", "surrogatepass")
    views = [("raw", raw)]
    views += [(name, secret.encode(name, "surrogatepass")) for name in ("utf-16-le", "utf-16-be")]
    with contextlib.suppress(UnicodeEncodeError):
        views.append(("latin-1", secret.encode("latin-1")))
    escaped = json.dumps(secret)[1:-1]
    views += [("json", escaped.encode()), ("json twice", json.dumps(escaped)[1:-1].encode())]
    views.append(("hex", binascii.hexlify(raw)))
    for shift in range(3):  # the characters that its neighbours have no part in
        encoded = base64.b64encode(b"\0" * shift + raw)
        stop = len(encoded) - (0 if (len(raw) + shift) % 3 == 0 else 4)
        core = encoded[(0, 4, 4)[shift] : stop]
        views += [("base64", core), ("base64, url-safe", core.translate(bytes.maketrans(b"+/", b"-_")))]
    seen: dict[bytes, str] = {}
    for name, view in views:
        if len(view) >= MIN_BYTES:
            seen.setdefault(view, name)
    return [(name, view) for view, name in seen.items()]


def unpacked(content: bytes, room: Room) -> Iterator[tuple[str, bytes]]:
    """What content unpacks to, each view with how: lines joined, gzip, zlib, zstd, zip, Parquet, Arrow, base64.

    Args:
        room: for what is larger unpacked; a view is cut off where that ends.
    """
    if len(content) > MAX_UNPACKED:
        return
    joined = content.replace(b"\r", b"").replace(b"\n", b"")
    if len(joined) < len(content) and _BASE64_RUN.search(joined):
        yield "lines joined", joined
    if content.startswith(b"\x1f\x8b"):
        with contextlib.suppress(OSError, EOFError, zlib.error), gzip.open(io.BytesIO(content)) as file:
            yield "gzip", room.take(file.read(room.left))
    if content[:1] == b"\x78" and room.left:  # no limit is no bytes to zlib
        with contextlib.suppress(zlib.error):
            yield "zlib", room.take(zlib.decompressobj().decompress(content, room.left))
    if content.startswith(b"\x28\xb5\x2f\xfd"):
        import zstandard

        with contextlib.suppress(zstandard.ZstdError):
            yield "zstd", room.take(zstandard.ZstdDecompressor().stream_reader(content).read(room.left))
    if content.startswith(b"PK\x03\x04"):
        with contextlib.suppress(*_ODD_ZIPS), zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                with contextlib.suppress(*_ODD_ZIPS), archive.open(member) as file:
                    yield "zip", member.filename.encode("utf-8", "replace")
                    yield "zip", room.take(file.read(room.left))
    if content.startswith((b"PAR1", b"ARROW1")):
        for how, batch in _batches(content):
            if batch.nbytes >= room.left:
                room.ended = True
                break
            texts = json.dumps(batch.to_pylist(), default=str, ensure_ascii=False)
            yield how, room.take(texts.encode("utf-8", "replace"))
    for run in _BASE64_RUN.finditer(content):
        if len(run[0]) >= 64 and (inner := _decoded(run[0])):
            yield "base64", inner


_ODD_ZIPS = (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, zlib.error, EOFError, ValueError)


def _batches(content: bytes) -> Iterator[tuple[str, Any]]:
    """A table's rows, some at a time: compressed and dictionary-encoded columns hide texts from a search of the
    bytes."""
    import pyarrow
    import pyarrow.parquet

    with contextlib.suppress(pyarrow.ArrowException, OSError):
        if content.startswith(b"PAR1"):
            with pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content)) as file:
                for batch in file.iter_batches(batch_size=_ROWS):
                    yield "parquet", batch
        else:
            table = pyarrow.ipc.open_file(pyarrow.BufferReader(content))
            for place in range(table.num_record_batches):
                batch = table.get_batch(place)
                for start in range(0, batch.num_rows, _ROWS):
                    yield "arrow", batch.slice(start, _ROWS)


def _decoded(run: bytes) -> bytes:
    """A run of base64 that holds something packed (its raw text is found under the encoding base64)."""
    with contextlib.suppress(binascii.Error, ValueError):
        inner = base64.b64decode(run + b"=" * (-len(run) % 4))
        if inner[:1] == b"\x78" or inner.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"PAR1")):
            return inner
    return b""


def _values(database: Path) -> Iterator[bytes]:
    """Every text and blob in a database: long values are cut into pages, which a search of the bytes may miss."""
    with contextlib.suppress(sqlite3.Error):
        uri = f"{database.resolve().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=5)) as connection:
            connection.text_factory = bytes
            tables = connection.execute("select name from sqlite_master where type = 'table'").fetchall()
            for (name,) in tables:
                quoted = name.decode("utf-8", "replace").replace('"', '""')
                for row in connection.execute(f'select * from "{quoted}"'):
                    yield b"\0".join(value for value in row if isinstance(value, bytes))
