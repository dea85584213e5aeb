"""DVC's cache: objects named by their md5, hashed on their way in, and thrown out where they are damaged.

DVC trusts what its cache holds. MD5 names bytes and is no protection from somebody who means harm: what a version is
made of has SHA-256 digests too (`sau.checkpoint.digests`). Errors name objects, never a folder's files, whose names may
be people's.
"""

import contextlib
import hashlib
import json
from pathlib import Path

from tasks.engines.settings import settings

FOLDER = ".dir"
"""How the name of a folder's listing ends."""


def md5_of(path: Path) -> str | None:
    """What DVC calls the bytes at a path, a file or a folder; None where there is nothing."""
    if path.is_file():
        return _md5(path)
    if not path.is_dir():
        return None
    files = sorted(p for p in path.rglob("*") if p.is_file())
    listed = [{"md5": _md5(p), "relpath": p.relative_to(path).as_posix()} for p in files]
    return listing_md5(listed)


def listing_md5(listed: list[dict[str, str]]) -> str:
    """Of a folder, by its files' md5 and paths."""
    as_dvc_writes = json.dumps(sorted(listed, key=lambda entry: entry["relpath"]), sort_keys=True)
    return f"{hashlib.md5(as_dvc_writes.encode(), usedforsecurity=False).hexdigest()}{FOLDER}"


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def cached(md5: str) -> Path:
    """Where this checkout's cache has an object, if it has it."""
    return settings().root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]


def drop_empty_runs() -> bool:
    """Remove what in DVC's run cache is a folder of no entry, as a process that dies before it has written one leaves
    it; DVC fails on them with an error that says nothing. Whether there were any."""
    dropped = False
    for folder in (settings().root / ".dvc" / "cache" / "runs").glob("*/*"):
        with contextlib.suppress(OSError):  # it has entries
            folder.rmdir()
            dropped = True
    return dropped


def damaged(md5: str) -> list[str]:
    """The cached objects of a pin that are not what they are named: the listing, then what it lists.

    An object that the cache lacks is not damaged: DVC fetches it.
    """
    if not cached(md5).is_file():
        return []
    if not is_whole(md5):
        return [md5]
    parts = listing(md5).values() if md5.endswith(FOLDER) else ()
    return [part for part in parts if cached(part).is_file() and not is_whole(part)]


def is_whole(md5: str) -> bool:
    """Whether the cache has an object, and it is what it is named; of a folder this is its listing alone."""
    return cached(md5).is_file() and _md5(cached(md5)) == md5.removesuffix(FOLDER)


def listing(md5: str) -> dict[str, str]:
    """The md5 of every file of a cached folder, by its path there."""
    return {entry["relpath"]: entry["md5"] for entry in json.loads(cached(md5).read_bytes())}


def discard(md5s: list[str]) -> None:
    """Throw objects out of the cache."""
    for md5 in md5s:
        cached(md5).unlink(missing_ok=True)
