"""DVC's objects one by one, in the cache and in the remote: what a folder consists of, and an object deleted by hash.

DVC itself collects garbage by what revisions use; an erasure names the objects.
"""

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sau.errors import WorkspaceError
from tasks.engines.cache import drop_empty_runs
from tasks.engines.settings import settings
from tasks.engines.workspace import scratch

if TYPE_CHECKING:
    from dvc.repo import Repo

CACHE, REMOTE = "DVC cache", "DVC remote"


@dataclass(frozen=True)
class Removed:
    """What came of deleting objects in one store: how many there were, how many are left, and why."""

    store: str
    deleted: int
    left: int
    why: str = ""


class Objects:
    """Cache and remote of this checkout."""

    def __init__(self, repo: "Repo") -> None:
        self._repo = repo

    @cached_property
    def _stores(self) -> dict[str, Any]:
        with _mapped():
            return {CACHE: self._repo.cache.local, REMOTE: self._repo.cloud.get_remote_odb("store")}

    def members(self, md5: str) -> dict[str, str]:
        """The files of a folder: md5 by path within; a file is its own only member.

        Empty where the folder's listing is in neither store any more.

        Raises:
            WorkspaceError: the remote cannot be reached.
        """
        if not md5.endswith(".dir"):
            return {"": md5}
        for store in self._stores.values():
            with (
                _mapped(),
                contextlib.suppress(FileNotFoundError),
                store.fs.open(store.oid_to_path(md5)) as file,
            ):
                return {entry["relpath"]: entry["md5"] for entry in json.load(file)}
        return {}

    def delete(self, store: str, md5s: Iterable[str]) -> Removed:
        """Delete objects from one store, and look again: what is said to be gone was looked for.

        A store that refuses leaves the rest as it is, and it is said how much that is.
        """
        odb, deleted, why = self._stores[store], 0, ""
        for md5 in (wanted := sorted(md5s)):
            try:
                if odb.exists(md5):
                    odb.delete(md5)
                    deleted += 1
            except Exception as error:  # each kind of remote has its own
                why = type(error).__name__
        self._forget_index(odb)
        left = sum(self._is_there(odb, md5) for md5 in wanted)
        return Removed(store, deleted, left, why)

    def contents(self, store: str) -> Iterator[tuple[str, str, bytes | None]]:
        """(md5, path, content) of every object of a store, one at a time; None where one cannot be read.

        Raises:
            WorkspaceError: the store cannot be listed.
        """
        odb = self._stores[store]
        with _mapped():
            listed = sorted(odb.all())
        for md5 in listed:
            path, content = odb.oid_to_path(md5), None
            with contextlib.suppress(Exception), odb.fs.open(path, "rb") as file:  # each kind of remote has its own
                content = file.read()
            yield md5, path, content

    @staticmethod
    def _is_there(odb: Any, md5: str) -> bool:
        try:
            return bool(odb.exists(md5))
        except Exception:  # not known is not gone
            return True

    @staticmethod
    def _forget_index(odb: Any) -> None:
        """DVC remembers which folders a remote has; where it did not forget, it would never send one again."""
        from dvc_data.hashfile.db import get_index

        with contextlib.suppress(Exception):
            get_index(odb).clear()


@contextlib.contextmanager
def open_objects() -> Iterator[Objects]:
    """Cache and remote, for as long as the block runs.

    Raises:
        WorkspaceError: git or DVC refused.
    """
    with scratch("objects") as ws:
        from dvc.repo import Repo

        with _mapped(), Repo(str(ws.path)) as repo:
            yield Objects(repo)


def clean_run_cache(md5s: set[str]) -> int:
    """Remove the entries of DVC's run cache that name one of these objects; returns how many."""
    removed = 0
    for folder in (settings().root / ".dvc" / "cache" / "runs").glob("*/*"):
        for entry in folder.iterdir():
            if any(md5 in entry.read_text(encoding="utf-8", errors="replace") for md5 in md5s):
                entry.unlink()
                removed += 1
    drop_empty_runs()
    return removed


def drop_site_cache() -> None:
    """Empty DVC's site cache, which remembers paths and hashes; DVC fills it again."""
    for path in (settings().state / "dvc-site" / "repo").glob("*"):
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _mapped() -> Iterator[None]:
    """DVC's errors as ours, by kind alone: a message may quote a path."""
    from dvc.exceptions import DvcException

    try:
        yield
    except (DvcException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise WorkspaceError(f"dvc: cache or remote: {type(error).__name__}") from None
