"""The residue scan: a request's secrets, or canaries, looked for in every store of this checkout."""

import contextlib
import json
import logging
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from huggingface_hub import constants
from pydantic import BaseModel, ConfigDict

from sau.data.people import INTERNAL
from sau.data.records import Row
from sau.data.residue import Hit, Searcher, hit
from sau.errors import RequestError, WorkspaceError
from tasks.engines.keys import vault
from tasks.engines.ledger import Ledger
from tasks.engines.objects import REMOTE, open_objects
from tasks.engines.pins import pins_at
from tasks.engines.readout import is_server, name_of_database, read_out
from tasks.engines.repository import TAG, git
from tasks.engines.settings import settings
from tasks.engines.tables import Base

log = logging.getLogger("sau")

DATA_SET = "data set"
"""The store whose hits are expected until a purge."""
LEDGER = "ledger"
"""The store that names the person until a purge."""

ERASED = "purged-"
"""What the name begins with that stands for a person's id after a purge."""
_IDS = ("record_id", "subject_id", "subject_ids")

ALWAYS_OPEN = (
    "backups and snapshots of these stores, and copies of data or model outside this checkout",
    "blocks that a disk keeps of deleted files, swap, core dumps, other processes' memory",
    "shell histories, terminal logs, and this machine's own logs",
)


_OF_A_SERVER = "its write-ahead log, rows that were deleted and not vacuumed, large objects, replicas and backups"
_GIVE = ", and its database: say which with --database"


class Searched(BaseModel):
    """A store that was searched: its files, their bytes, what was found, and how many could not be read.

    Of a server's database its columns are counted as files.
    """

    model_config = ConfigDict(frozen=True)

    store: str
    files: int
    bytes: int
    hits: tuple[Hit, ...] = ()
    unread: int = 0
    not_unpacked: int = 0


class Scan(BaseModel):
    """What a scan came to.

    Attributes:
        secrets, too_short: how many were looked for, and the labels of those too short to be.
        stores: in order.
        not_searched: what was not, in words.
    """

    model_config = ConfigDict(frozen=True)

    secrets: int
    too_short: tuple[str, ...]
    stores: tuple[Searched, ...]
    not_searched: tuple[str, ...]

    @property
    def residue(self) -> list[Searched]:
        """The stores with hits that no purge has still to come for."""
        return [store for store in self.stores if store.hits and store.store not in (DATA_SET, LEDGER)]

    @property
    def found(self) -> list[Searched]:
        """Every store with hits."""
        return [store for store in self.stores if store.hits]


def secrets_of(request_id: str) -> dict[str, str]:
    """What is personal of a request: its subject's id, and every text of its rows as the vault has them, by a label.

    Internal ids are not: they say nothing of anybody, once the ledger does not connect them.

    Raises:
        RequestError: unknown, or not carried out yet.
        VaultError: the rows were shredded.
    """
    request = Ledger(settings().ledger_url).get(request_id)
    if vault().state(request_id) == "none":
        raise RequestError(f"request {request_id}: its rows are not in the vault, it has not been carried out yet")
    own = {} if request.subject_id.startswith(ERASED) else {"subject id": request.subject_id}
    return own | texts_of(vault().open(request_id))


def texts_of(rows: list[Row]) -> dict[str, str]:
    """Every text of rows by column and number, but for internal ids; a text that occurs twice is kept once."""
    found: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        for column, value in row.items():
            for place, text in enumerate(value if isinstance(value, list) else [value], 1):
                inside = column in _IDS and isinstance(text, str) and INTERNAL.match(text[:32])
                if isinstance(text, str) and text and not inside and text not in found.values():
                    found[f"{column} {number}" + (f".{place}" if isinstance(value, list) else "")] = text
    return found


def scan(secrets: Mapping[str, str], databases: Sequence[str] = ()) -> Scan:
    """Look for secrets in every store; nothing of them is in what is returned or logged.

    Args:
        secrets: text by label.
        databases: URLs of servers' databases that the settings do not name: MLflow's behind its server, Prefect's.

    Raises:
        RequestError: what is given as a database's URL is none.
    """
    searcher = Searcher(secrets)
    stores, closed = [*_searched(searcher)], []
    for what, url in _databases(databases).items():
        try:
            stores += _database(what, url, searcher)
            closed.append(f"of {what}: {_OF_A_SERVER}")
        except RequestError as error:
            closed.append(f"{what}: {error}")
    if settings().remote_folder is None:
        try:
            stores += _remote(searcher)
        except WorkspaceError as error:
            closed.append(f"the DVC remote, which cannot be read: {error}")
    return Scan(
        secrets=len(secrets) - len(searcher.too_short),
        too_short=tuple(searcher.too_short),
        stores=tuple(stores),
        not_searched=(*closed, *_not_searched(databases), *ALWAYS_OPEN),
    )


def _databases(given: Sequence[str]) -> dict[str, str]:
    """The servers' databases that are known, each once, by what they are called."""
    named = {"the ledger's database": settings().database_url, "MLflow's database": settings().mlflow_tracking_uri}
    found = {what: url for what, url in named.items() if is_server(url)}
    for url in given:
        if not is_server(url):
            raise RequestError("database: has to be a server's URL, such as postgresql://user@server/name")
        found[f"database {name_of_database(url)}"] = url
    once = {url: what for what, url in reversed(found.items())}
    return {what: url for what, url in found.items() if once[url] == what}


def _database(what: str, url: str, searcher: Searcher) -> list[Searched]:
    """A server's database, the ledger's own tables by themselves: they name the person until a purge."""
    is_ledger, sizes = url == settings().database_url, Counter[str]()
    found: dict[tuple[str, str], set[tuple[str, str]]] = {}
    columns: dict[str, set[tuple[str, str]]] = {what: set(), LEDGER: set()}
    for table, column, content in read_out(url):
        store = LEDGER if is_ledger and table in Base.metadata.tables else what
        columns[store].add((table, column))
        sizes[store] += len(content)
        if some := searcher.in_bytes(content):
            found.setdefault((table, column), set()).update(some)
    return [
        Searched(
            store=store,
            files=len(places),
            bytes=sizes[store],
            hits=tuple(filter(None, (hit(f"{what}, {t}.{c}", found.get((t, c), ())) for t, c in sorted(places)))),
        )
        for store, places in columns.items()
        if places
    ]


def _remote(searcher: Searcher) -> Iterator[Searched]:
    """The objects of a DVC remote that is no folder here, through DVC; those of data sets by themselves."""
    data = _data_objects()
    found: dict[str, list[Hit]] = {}
    sizes, counts, unread = Counter[str](), Counter[str](), Counter[str]()
    with open_objects() as objects:
        for md5, where, content in objects.contents(REMOTE):
            store = DATA_SET if md5 in data else REMOTE
            counts[store] += 1
            if content is None:
                unread[store] += 1
                continue
            sizes[store] += len(content)
            if some := hit(where, searcher.in_bytes(content)):
                found.setdefault(store, []).append(some)
    for store in counts:
        hits = tuple(found.get(store, ()))
        yield Searched(store=store, files=counts[store], bytes=sizes[store], hits=hits, unread=unread[store])


def _searched(searcher: Searcher) -> Iterator[Searched]:
    state, root = settings().state, settings().root
    data = _data_objects()
    cache, remote = root / ".dvc" / "cache", Path(settings().remote_url)
    objects = [path for place in (cache, remote) if place.is_dir() for path in _files(place)]
    inside = [path for path in objects if f"{path.parent.name}{path.name}" in data]
    yield _store(DATA_SET, inside, searcher)
    others = {"DVC cache": cache, "DVC remote": remote}
    for name, place in others.items():
        yield _store(name, [p for p in objects if p.is_relative_to(place) and p not in set(inside)], searcher)
    parts = {
        LEDGER: ["ledger.db*"],
        "MLflow": ["mlflow.db*", "mlartifacts"],
        "Prefect": ["prefect"],
        "DVC site cache": ["dvc-site"],
        "vault and keys": ["vault", "keys"],
        "certificates": ["certificates"],
        "worktrees and logs": ["work", "logs", "locks", "models"],
    }
    seen = set(objects)
    for name, patterns in parts.items():
        files = [path for pattern in patterns for top in state.glob(pattern) for path in _files(top)]
        seen |= set(files)
        yield _store(name, files, searcher)
    yield _store("rest of the state folder", [path for path in _files(state) if path not in seen], searcher)
    yield _git_objects(root, searcher)
    skipped = [state, root / ".git", root / ".dvc" / "cache", *root.glob(".venv*")]
    yield _store("checkout", [p for p in _files(root) if not any(p.is_relative_to(s) for s in skipped)], searcher)
    yield _store("git's own files", [p for p in _files(root / ".git") if "objects" not in p.parts], searcher)
    caches = [*Path(constants.HF_HUB_CACHE).glob("datasets--*"), Path(constants.HF_HOME) / "datasets"]
    yield _store("Hugging Face caches of data sets", [path for top in caches for path in _files(top)], searcher)
    temp = Path(tempfile.gettempdir())
    yield _store("temporary files", [path for top in temp.glob("sau-*") for path in _files(top)], searcher)


def _store(name: str, files: list[Path], searcher: Searcher) -> Searched:
    log.debug("searching %s: %d files", name, len(files))
    hits, size, unread, before = [], 0, 0, searcher.cut_off
    for path in files:
        try:
            length = path.stat().st_size
            found = searcher.in_file(path)
        except OSError:
            unread += path.exists()
            continue
        size += length
        if found:
            hits.append(found)
    cut_off = searcher.cut_off - before
    return Searched(store=name, files=len(files), bytes=size, hits=tuple(hits), unread=unread, not_unpacked=cut_off)


def _git_objects(root: Path, searcher: Searcher) -> Searched:
    """Every object of the repository, unpacked, whether a branch still reaches it or not."""
    listed = git(root, "cat-file", "--batch-check", "--batch-all-objects").splitlines()
    names = [line.split(" ") for line in listed]
    hits, size = [], 0
    asked = "".join(f"{name[0]}\n" for name in names).encode()
    out = subprocess.run(["git", "cat-file", "--batch"], cwd=root, input=asked, capture_output=True, check=True).stdout
    place = 0
    for name, kind, length in names:
        place = out.index(b"\n", place) + 1
        content = out[place : place + int(length)]
        place += int(length) + 1
        size += len(content)
        if found := hit(f"git {kind} {name[:12]}", searcher.in_bytes(content)):
            hits.append(found)
    return Searched(store="git objects", files=len(names), bytes=size, hits=tuple(hits))


def _data_objects() -> set[str]:
    """The objects of every data set that a version or a branch pins: folders' listings, and the files in them."""
    root, found = settings().root, set[str]()
    refs = git(root, "for-each-ref", "--format=%(refname:strip=2)", "refs/heads", "refs/tags").splitlines()
    for ref in (ref for ref in refs if TAG.match(ref) or "/" not in ref):
        with contextlib.suppress(Exception):
            pin = pins_at(root, ref)["data"].md5
            found.add(pin)
            found |= _listed(pin)
    return found


def _listed(md5: str) -> set[str]:
    places = (settings().root / ".dvc" / "cache", Path(settings().remote_url))
    for place in places:
        listing = place / "files" / "md5" / md5[:2] / md5[2:]
        if listing.is_file():
            return {entry["md5"] for entry in json.loads(listing.read_text(encoding="utf-8"))}
    return set()


def _files(top: Path) -> list[Path]:
    """Every file at or below a place, links not followed, sorted."""
    if top.is_file() and not top.is_symlink():
        return [top]
    return sorted(path for path in top.rglob("*") if path.is_file() and not path.is_symlink())


def _not_searched(databases: Sequence[str]) -> list[str]:
    """The stores that the settings name and that were not looked into."""
    given, left = settings(), []
    if given.mlflow_tracking_uri.startswith("http"):
        left.append(f"the MLflow server's artifacts{_GIVE * (not databases)}")
    elif given.mlflow_tracking_uri and not given.mlflow_tracking_uri.startswith("sqlite"):
        left.append("MLflow's artifacts, where they are not below the state folder")
    if given.prefect_api_url:
        left.append(f"the Prefect server's results{_GIVE * (not databases)}")
    left.append("Hugging Face caches of models")
    return left
