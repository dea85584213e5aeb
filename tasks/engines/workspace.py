"""Workspaces: a private worktree per attempt, with its inputs pinned, and one commit per version.

The user's own checkout is never touched: no branch, index or file of it changes. A version's commit holds the code,
params.yaml, dvc.yaml, dvc.lock, the metrics and a `.dvc` pointer per input. Its git parents are the commit whose code
ran and, for a forget version, the version before it.
"""

import contextlib
import json
import logging
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from configobj import ConfigObj

from sau.errors import WorkspaceError
from tasks.engines import cache
from tasks.engines.leases import Process
from tasks.engines.pins import LOCK_RETRIES, LOCK_WAIT_S, Pin, dvc, pin_of, pins_at
from tasks.engines.repository import author, bring_tag, git
from tasks.engines.settings import settings

log = logging.getLogger("sau")

_HALF_MADE = re.compile(r"\bworktrees/([^/]+)/commondir")
_PREPARED = ".sau-prepared"
SURROUNDINGS = "surroundings.json"


def _worktree(root: Path, *args: str) -> None:
    """`git worktree`: it reads all of them, and fails at one that is just being made, or whose maker died over it."""
    for _ in range(LOCK_RETRIES):
        try:
            git(root, "worktree", *args)
            return
        except WorkspaceError as error:
            if not (half_made := _HALF_MADE.search(str(error))):
                raise
            failed = error
        if (other := Workspace(half_made[1])).holder.exists() and other.abandoned:
            shutil.rmtree(root / git(root, "rev-parse", "--git-common-dir") / "worktrees" / half_made[1])
        time.sleep(LOCK_WAIT_S)
    raise failed


_GONE = "Checkout failed for following targets"

_CORRUPTED = re.compile(r"object (\S+) is corrupted")


def _no_whole(md5: str, remote: str, cache_has: str = "was damaged") -> str:
    return (
        f"object {md5} {cache_has} in DVC's cache, and {remote} has no whole one: bring it there from a copy of that "
        "remote, then run this again (`sau doctor --line LINE` looks at all that the version which leads is made of)"
    )


class Workspace:
    """One private worktree below `<home>/work`, with the shared DVC cache and the configured remote."""

    def __init__(self, name: str) -> None:
        self.settings = settings()
        self.path = self.settings.state / "work" / name

    def open(self, rev: str = "HEAD") -> "Workspace":
        """Make the worktree at `rev` of the checkout, or go on in it where it was prepared at that revision.

        Raises:
            WorkspaceError: git or DVC refused.
        """
        root = self.settings.root
        bring_tag(root, rev)
        commit = git(root, "rev-parse", f"{rev}^{{commit}}")
        if self.prepared and git(self.path, "rev-parse", "HEAD") == commit:
            return self
        self.close()
        self._own()
        _worktree(root, "add", "--detach", "--quiet", str(self.path), commit)
        self._configure("core", no_scm="true", check_update="false")
        self._configure("cache", dir=str(root / ".dvc" / "cache"), type="reflink,copy")
        self._configure('remote "store"', url=self.settings.remote_url, verify="true")
        return self

    def _configure(self, section: str, **options: str) -> None:
        """Set options of the worktree's own DVC configuration, which no commit holds; DVC reads it by this library."""
        config = ConfigObj(str(self.path / ".dvc" / "config.local"), encoding="utf-8")
        config[section] = options
        config.write()

    @property
    def is_of_this_checkout(self) -> bool:
        """Whether git keeps it below this checkout, which may have been moved or copied with the state folder in it."""
        try:
            kept = Path((self.path / ".git").read_text(encoding="utf-8").partition("gitdir: ")[2].strip())
            common = self.settings.root / git(self.settings.root, "rev-parse", "--git-common-dir")
            return kept.is_dir() and kept.parent.parent.samefile(common)
        except OSError:
            return False

    @property
    def prepared(self) -> bool:
        """Whether its inputs are complete: an attempt that died before has to start over, one after can go on."""
        return (self.path / _PREPARED).exists()

    def mark_prepared(self) -> None:
        (self.path / _PREPARED).touch()

    @property
    def holder(self) -> Path:
        """The file beside the worktree that says whose it is."""
        return self.path.with_name(f"{self.path.name}.holder")

    def _own(self) -> None:
        """Say beside the worktree that it is this process's."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.holder.write_text(json.dumps(asdict(Process.own())), encoding="utf-8")

    @property
    def abandoned(self) -> bool:
        """Whether the process that worked here is known to be no more."""
        try:
            return Process(**json.loads(self.holder.read_text(encoding="utf-8"))).died
        except (OSError, ValueError, TypeError):  # its process died before it could say so
            return True

    def become(self, name: str) -> None:
        """Take up an abandoned worktree under another name: whatever still runs in the old one does not find this."""
        new = Workspace(name)
        new._own()
        _worktree(self.settings.root, "move", str(self.path), str(new.path))
        self.holder.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the worktree and everything in it, and no other: not even one that is just being made."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.holder.unlink(missing_ok=True)
        with contextlib.suppress(WorkspaceError):  # git knows no such worktree
            _worktree(self.settings.root, "remove", "--force", "--force", str(self.path))

    def point(self, path: str, pin: Pin, *, only: str = "") -> None:
        """Pin known bytes at `path` and bring them here (from the cache, else from the remote), hashed on their way.

        What the cache has of them and is damaged is thrown out and fetched anew.

        Args:
            only: of a folder, the one file of it to bring.

        Raises:
            WorkspaceError: the bytes are in neither, or in both only damaged.
        """
        self.write_pointer(path, pin)
        if only:
            self._bring_one(path, pin, only)
        else:
            self._bring({path: pin}, f"{path}.dvc")

    def _bring_one(self, path: str, pin: Pin, only: str) -> None:
        """One file of a pinned folder."""
        file = self.path / path / only
        self._pull(f"{path}/{only}")
        md5 = cache.listing(pin.md5)[only]
        if cache.md5_of(file) != md5:
            cache.discard([md5])
            file.unlink(missing_ok=True)
            self._pull(f"{path}/{only}")
            if cache.md5_of(file) != md5:
                raise WorkspaceError(f"{path}: {_no_whole(md5, self.settings.remote_url)}")

    def bring_all(self, rev: str) -> None:
        """Bring here everything that the worktree pins, which is open at `rev`; as in `point`.

        What was removed for good (a purge does that) is left out.
        """
        self._bring(pins_at(self.settings.root, rev), "--allow-missing")

    def _pull(self, *arguments: str) -> None:
        try:
            dvc(self.path, "pull", *arguments)
        except WorkspaceError as error:
            if damaged := _CORRUPTED.search(str(error)):
                raise WorkspaceError(_no_whole(damaged[1], self.settings.remote_url)) from None
            raise

    def _bring(self, pins: dict[str, Pin], *arguments: str) -> None:
        may_lack = "--allow-missing" in arguments
        thrown_out: dict[str, list[str]] = {}
        while True:
            failed: WorkspaceError | None = None
            try:
                self._pull(*arguments)
            except WorkspaceError as error:
                failed = error
            odd = {path: pin for path, pin in pins.items() if failed or not self._is_whole(path, pin)}
            if lost := odd.keys() & thrown_out.keys():
                words = _no_whole(thrown_out[min(lost)][0], self.settings.remote_url)
                raise WorkspaceError(f"{', '.join(sorted(lost))}: {words}")
            bad = {path: md5s for path, pin in odd.items() if (md5s := cache.damaged(pin.md5))}
            if not odd or (may_lack and not failed and not bad):
                return
            if failed and _GONE in str(failed) and (gone := self.lost(pins)):
                raise WorkspaceError(gone)
            if not bad:
                raise failed or WorkspaceError(
                    f"{', '.join(f'{path} ({pin.md5})' for path, pin in odd.items())}: is not what it is named"
                )
            self._throw_out(bad)
            thrown_out |= bad

    def lost(self, pins: dict[str, Pin]) -> str:
        """In words, which of these paths did not come, since no store has their bytes; "" where all are here."""
        gone = sorted(path for path in pins if not (self.path / path).exists())
        if not gone:
            return ""
        return f"{', '.join(gone)}: {_no_whole(pins[gone[0]].md5, self.settings.remote_url, 'is not')}"

    def _is_whole(self, path: str, pin: Pin) -> bool:
        return cache.md5_of(self.path / path) == pin.md5

    def _throw_out(self, bad: dict[str, list[str]]) -> None:
        """Damaged objects, out of the cache and out of the worktree."""
        for path, md5s in bad.items():
            log.warning("%s: %d damaged objects in DVC's cache are thrown out: %s", path, len(md5s), " ".join(md5s[:3]))
            cache.discard(md5s)
            place = self.path / path
            shutil.rmtree(place, ignore_errors=True) if place.is_dir() else place.unlink(missing_ok=True)

    def check(self, *paths: str) -> None:
        """Hash what is here again.

        Raises:
            WorkspaceError: it is not what the worktree pins.
        """
        for path in paths:
            if not self._is_whole(path, self.pin(path)):
                raise WorkspaceError(f"{path}: its bytes are not those that are pinned ({self.pin(path).md5})")

    def not_in_remote(self) -> list[str]:
        """The paths whose bytes the remote lacks, of everything that the worktree pins."""
        said: list[str] = []
        dvc(self.path, "status", "--cloud", "--json", on_line=said.append)
        found: dict[str, Any] = json.loads(next((line for line in said if line.startswith("{")), "{}"))
        return sorted({path.partition("/")[0] for path, state in found.items() if state in ("new", "missing")})

    def write_pointer(self, path: str, pin: Pin) -> None:
        pointer = self.path / f"{path}.dvc"
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.write_text(yaml.safe_dump({"outs": [pin.as_out(Path(path).name)]}, sort_keys=False), encoding="utf-8")

    def add(self, *paths: str) -> dict[str, Pin]:
        """Put paths under DVC and return their pins."""
        dvc(self.path, "add", *paths)
        return {path: self.pin(path) for path in paths}

    def pin(self, path: str) -> Pin:
        """What the worktree's pointer, or its dvc.lock, pins at `path`."""
        pointer = self.path / f"{path}.dvc"
        if pointer.is_file():
            return pin_of(yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"][0])
        for stage in yaml.safe_load((self.path / "dvc.lock").read_text(encoding="utf-8"))["stages"].values():
            for out in stage.get("outs", ()):
                if out["path"] == path:
                    return pin_of(out)
        raise WorkspaceError(f"{path}: pinned by no pointer and no stage of this worktree")

    def repro(self, stage: str, on_line: Callable[[str], None] | None = None) -> dict[str, Any]:
        """Bring one stage up to date (nothing runs where it is already) and return its metrics.

        What comes from DVC's cache is hashed; where it is damaged, the stage is run.

        Raises:
            WorkspaceError: the stage failed, or its outputs are not what DVC says.
        """
        try:
            dvc(self.path, "repro", "--single-item", stage, on_line=on_line)
        except WorkspaceError:
            if not cache.drop_empty_runs():
                raise
            dvc(self.path, "repro", "--single-item", stage, on_line=on_line)
        outs = self._outs(stage)
        odd = {path: cache.damaged(pin.md5) for path, pin in outs.items() if not self._is_whole(path, pin)}
        if odd:
            self._throw_out(odd)
            dvc(self.path, "repro", "--single-item", "--force", "--no-run-cache", stage, on_line=on_line)
            self.check(*outs)
        return json.loads((self.path / "metrics" / f"{stage}.json").read_text(encoding="utf-8"))

    def _outs(self, stage: str) -> dict[str, Pin]:
        """What a stage made, as dvc.lock has it; metrics are no objects."""
        locked = yaml.safe_load((self.path / "dvc.lock").read_text(encoding="utf-8"))["stages"][stage]
        return {out["path"]: pin_of(out) for out in locked.get("outs", ()) if not out["path"].startswith("metrics/")}

    def push(self) -> None:
        """Send everything the worktree pins to the remote."""
        dvc(self.path, "push")

    def commit(self, message: str, *, parents: list[str], surroundings: dict[str, str]) -> str:
        """Commit the recipe (params, dvc.yaml, dvc.lock, pointers, metrics) on top of the worktree's revision.

        Args:
            parents: further git parents: the version before.
            surroundings: on what it was made; kept beside the recipe.

        Returns:
            The commit's hash. No branch moves.
        """
        pointers = [p.name for p in self.path.glob("*.dvc") if p.is_file()]
        (self.path / SURROUNDINGS).write_text(json.dumps(surroundings, indent=1) + "\n", encoding="utf-8")
        git(self.path, "add", "--force", "params.yaml", "dvc.yaml", "dvc.lock", "metrics", SURROUNDINGS, *pointers)
        head = git(self.path, "rev-parse", "HEAD")
        tree = git(self.path, "write-tree")
        flags = [flag for parent in [head, *parents] for flag in ("-p", parent)]
        return git(self.settings.root, "commit-tree", tree, *flags, "-m", message, env=author(self.settings.root))


@contextlib.contextmanager
def scratch(purpose: str, rev: str = "HEAD") -> Iterator[Workspace]:
    """A worktree of this call's own, gone at its end; what a killed process left of one is swept away first.

    Raises:
        WorkspaceError: git or DVC refused.
    """
    for left in (settings().state / "work").glob("scratch-*.holder"):
        if (ws := Workspace(left.stem)).abandoned:
            ws.close()
    ws = Workspace(f"scratch-{purpose}-{secrets.token_hex(6)}")
    try:
        yield ws.open(rev)
    finally:
        ws.close()


def take_up(kind: str, line: str, inputs: str) -> str:
    """The name of a worktree for an attempt: a new one, or what a killed attempt on the same inputs left.

    Args:
        inputs: a digest of them, 12 hex digits.
    """
    name, key = f"{kind}-{line}-{inputs}-{secrets.token_hex(4)}", f"{kind}-{line}-{inputs}"
    left = [ws for ws in _left(kind, line) if ws.path.name.startswith(key) and ws.prepared]
    same = [ws for ws in left if ws.is_of_this_checkout]
    for ws in same[:1]:
        ws.become(name)
    sweep(kind, line, but=name)
    return name


def sweep(kind: str, line: str, *, but: str = "") -> None:
    """Remove what dead attempts of a kind on a line left, all but the worktree named `but`; the line is held.

    One that lost its line and may wake up keeps its folder.
    """
    for left in _left(kind, line):
        if left.path.name != but:
            left.close()


def _left(kind: str, line: str) -> list[Workspace]:
    """The abandoned worktrees of a line's attempts of a kind."""
    named = re.compile(f"{re.escape(f'{kind}-{line}')}-[0-9a-f]{{12}}-[0-9a-f]{{8}}")
    names = {path.name.removesuffix(".holder") for path in (settings().state / "work").glob(f"{kind}-{line}-*")}
    return [ws for name in sorted(names) if named.fullmatch(name) and (ws := Workspace(name)).abandoned]


@dataclass(frozen=True)
class Attempt:
    """One try at a version, by references only: what a task is given ends up in Prefect's database.

    Attributes:
        line: the model line.
        name: of its private worktree.
        run_id: of its MLflow run.
    """

    line: str
    name: str
    run_id: str

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.name)
