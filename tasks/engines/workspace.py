"""git and DVC: a private worktree per attempt, pins for its inputs, one commit and tag per version.

The user's own checkout is never touched: no branch, index or file of it changes. A version `<line>@v<N>` is an
annotated git tag; its commit holds the code, params.yaml, dvc.yaml, dvc.lock, the metrics and a `.dvc` pointer per
input. Its git parents are the commit whose code ran and, for a forget version, the version before it.
"""

import contextlib
import json
import logging
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from configobj import ConfigObj

from sau.errors import WorkspaceError
from tasks.engines import cache
from tasks.engines.leases import Process, fence
from tasks.engines.settings import settings

log = logging.getLogger("sau")

TAG = re.compile(
    r"^(?P<line>[A-Za-z0-9][A-Za-z0-9_-]{0,63}(\.given-up-\d{8}T\d{6}(-retrain)?)?)@v(?P<number>[1-9]\d*)\Z"
)

LOCK_RETRIES, LOCK_WAIT_S = 20, 0.5
_HALF_MADE = re.compile(r"\bworktrees/([^/]+)/commondir")

_PREPARED = ".sau-prepared"
SURROUNDINGS = "surroundings.json"


def tag_name(line: str, number: int) -> str:
    """`<line>@v<N>`: the git tag of a version."""
    return f"{line}@v{number}"


def parse_tag(tag: str) -> tuple[str, int]:
    """(line, number) of a version's name.

    Raises:
        WorkspaceError: not of the form <line>@v<N>.
    """
    if not (match := TAG.match(tag)):
        raise WorkspaceError(f"version {tag!r}: has to look like tiny@v2")
    return match["line"], int(match["number"])


_NEUTRAL = {
    "core.hooksPath": os.devnull,  # a hook of DVC's would check out data in every worktree
    "core.attributesFile": os.devnull,
    "core.autocrlf": "false",
    "core.eol": "lf",
    "core.safecrlf": "false",
    "core.sparseCheckout": "false",
    "core.fsmonitor": "false",
    "core.quotePath": "false",
    "color.ui": "false",
    "column.ui": "never",
    "submodule.recurse": "false",
    "tag.gpgSign": "false",
    "tag.forceSignAnnotated": "false",
}
"""What a user may have configured otherwise for their own work, and would change ours: the bytes of a worktree are
hashed, and nobody is there to type a passphrase."""


def git(root: Path, *args: str, env: dict[str, str] | None = None, stdin: str = "") -> str:
    """git's standard output, stripped; whatever the user's configuration and hooks say.

    Raises:
        WorkspaceError: git's own words (paths and refs, never file contents).
    """
    neutral = [word for name, value in _NEUTRAL.items() for word in ("-c", f"{name}={value}")]
    done = subprocess.run(
        ["git", *neutral, *args], cwd=root, input=stdin, capture_output=True, text=True,
        env={**os.environ, "GIT_ATTR_NOSYSTEM": "1", **(env or {})},
    )  # fmt: skip
    if done.returncode:
        raise WorkspaceError(f"git {args[0]}: {' '.join(done.stderr.split()) or f'exit {done.returncode}'}")
    return done.stdout.strip()


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


ORPHANED = str(Path(__file__).with_name("orphaned.py"))
"""The program that runs a module's command line and ends where its standard input does."""

_children: set[subprocess.Popen[str]] = set()


@contextlib.contextmanager
def child(
    command: list[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process with all it starts, which is ended with the block, and with this process however that ends.

    Args:
        command: of `tasks/engines/orphaned.py`, which ends where its standard input does.
        environment: on top of this process's.
    """
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={
            **os.environ,
            **(environment or {}),
            "GIT_CONFIG_GLOBAL": os.devnull,  # DVC refuses what a user's own excludes would hide
        },
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    _children.add(process)
    try:
        yield process
    finally:
        _children.discard(process)
        _end(process)


def _end(process: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def end_children() -> None:
    """End what this process has running in worktrees."""
    for process in tuple(_children):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def dvc(root: Path, *args: str, on_line: Callable[[str], None] | None = None) -> None:
    """Run DVC in a worktree; another process's lock is waited for.

    Args:
        on_line: called with every line a stage prints.

    Raises:
        LeaseError: meanwhile another attempt has the line.
        WorkspaceError: the command, what it said last, and the file that holds all it said.
    """
    for attempt in range(LOCK_RETRIES):
        fence()
        tail: list[str] = []
        with child([sys.executable, ORPHANED, "dvc", *args], root) as process:
            assert process.stdout
            for line in process.stdout:
                tail = [*tail[-1000:], line.rstrip()]
                if on_line:
                    on_line(line.rstrip())
            if process.wait() == 0:
                return
        fence()  # a step that was ended for a lost line is that and no error of its own
        if not any("Unable to acquire lock" in line or "is busy" in line for line in tail):
            break
        time.sleep(LOCK_WAIT_S * (attempt + 1))
    raise WorkspaceError(
        f"dvc {args[0]}: {last_words(tail) or f'exit {process.returncode}'}; all of it: {keep_log('dvc', tail)}"
    )


_WORDS = re.compile(r"\w+Error: |ERROR: ")


def last_words(lines: list[str]) -> str:
    """The error that a step named, else DVC's own; never the lists of files below it, whose names may be people's."""
    errors = [line for line in lines if _WORDS.match(line)]
    named = [line for line in errors if not line.startswith("ERROR: ")]
    return (named or errors or [""])[-1].removeprefix("ERROR: ").rstrip(":")


def keep_log(program: str, lines: list[str]) -> str:
    """Keep all that a program said in a file below <home>/logs; returns its path, or why there is none."""
    folder = settings().state / "logs"
    try:
        folder.mkdir(exist_ok=True)
        number, path = tempfile.mkstemp(prefix=f"{program}-", suffix=".log", dir=folder)
        with open(number, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    except OSError as error:
        return f"not kept ({error.strerror})"
    return path


@dataclass(frozen=True)
class Pin:
    """What DVC pins at a path: an md5 (of the directory listing, where it ends in .dir), bytes and files."""

    md5: str
    size: int
    nfiles: int | None = None

    def as_out(self, path: str) -> dict[str, Any]:
        out: dict[str, Any] = {"md5": self.md5, "size": self.size, "hash": "md5", "path": path}
        return out | ({"nfiles": self.nfiles} if self.nfiles is not None else {})


def pin_of(out: dict[str, Any]) -> Pin:
    """What an output of a pointer or of dvc.lock says."""
    return Pin(out["md5"], out["size"], out.get("nfiles"))


def pins_at(root: Path, rev: str) -> dict[str, Pin]:
    """Every path that a revision's `.dvc` pointers and dvc.lock pin.

    Raises:
        WorkspaceError: no such revision.
    """
    bring_tag(root, rev)
    names = git(root, "ls-tree", "--name-only", rev).split("\n")
    pinned: dict[str, Pin] = {}
    for name in (n for n in names if n.endswith(".dvc") and not n.startswith(".")):
        for out in yaml.safe_load(git(root, "show", f"{rev}:{name}"))["outs"]:
            pinned[out["path"]] = pin_of(out)
    if "dvc.lock" in names:
        for stage in yaml.safe_load(git(root, "show", f"{rev}:dvc.lock"))["stages"].values():
            pinned |= {out["path"]: pin_of(out) for out in stage.get("outs", ()) if "md5" in out}
    return pinned


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


def tagged_versions(root: Path, line: str) -> dict[int, str]:
    """The commits that a line's git tags name, by version number."""
    commit = "%(if)%(*objectname)%(then)%(*objectname)%(else)%(objectname)%(end)"
    listed = git(root, "for-each-ref", f"--format=%(refname:strip=2) {commit}", f"refs/tags/{line}@v*")
    named = dict(entry.split(" ") for entry in listed.splitlines())
    return {int(match["number"]): named[tag] for tag in named if (match := TAG.match(tag))}


@dataclass(frozen=True)
class VersionCommit:
    """What a version's commit says by itself.

    Attributes:
        parents: the commit whose code ran, and that of the version before, where there is one.
        request_ids: what it was made for.
    """

    parents: tuple[str, ...]
    request_ids: tuple[str, ...]


def commit_of(root: Path, commit: str) -> VersionCommit:
    """A version's commit as it was written: also where a shallow clone cuts its parents off.

    Raises:
        WorkspaceError: no version's.
    """
    head, _, message = git(root, "cat-file", "commit", commit).partition("\n\n")
    parents = tuple(line.removeprefix("parent ") for line in head.splitlines() if line.startswith("parent "))
    if not 1 <= len(parents) <= 2:
        raise WorkspaceError(f"commit {commit[:12]}: has {len(parents)} parents, and is no version")
    return VersionCommit(parents, tuple(re.findall(r"\br-[0-9a-f]{16}\b", message)))


def rename_tags(root: Path, line: str, name: str) -> list[str]:
    """Give all of a line's tags another line's name, in one transaction; those that say what has expired as well.

    Returns:
        The tags as they were.
    """
    listed = git(root, "for-each-ref", "--format=%(refname:strip=2) %(objectname)", "refs/tags/")
    moves: dict[str, tuple[str, str]] = {}
    for entry in listed.splitlines():
        tag, _, made = entry.rpartition(" ")
        if new := _renamed(tag, line, name):
            moves[tag] = new, made
    if moves:
        fence()
        lines = [
            f"create refs/tags/{new} {made}\ndelete refs/tags/{old} {made}\n" for old, (new, made) in moves.items()
        ]
        git(root, "update-ref", "--stdin", stdin="".join(lines))
    return list(moves)


def rename_sent_tags(root: Path, line: str, name: str) -> list[str]:
    """What `rename_tags` did here done at SAU_GIT_REMOTE, where it is set, in one push; done again it changes nothing.

    Returns:
        Tags of the line there that are another checkout's: they stay.

    Raises:
        WorkspaceError: the remote does not answer, or somebody moves these tags at the same time.
    """
    if not (remote := settings().git_remote):
        return []
    asked = [f"refs/tags/{name_there}@v*" for name_there in (line, f"expired/{line}")]
    specs, left = [], []
    for entry in git(root, "ls-remote", remote, *asked).splitlines():
        made, _, ref = entry.partition("\t")
        tag = ref.removeprefix("refs/tags/")
        if not (new := _renamed(tag, line, name)):
            continue  # of another line, or what a tag points to
        if git(root, "for-each-ref", "--format=%(objectname)", f"refs/tags/{new}") == made:
            specs += [f"--force-with-lease={ref}:{made}", f"refs/tags/{new}", f":{ref}"]
        else:
            left.append(tag)
    if specs:
        fence()
        options = [spec for spec in specs if spec.startswith("--")]
        git(root, "push", "--atomic", "--quiet", *options, remote, *(spec for spec in specs if spec not in options))
    return left


def _renamed(tag: str, line: str, name: str) -> str:
    """A tag of a line, or of what expired of it, with another line's name; "" where it is of another."""
    kept, version = ("expired/", tag[8:]) if tag.startswith("expired/") else ("", tag)
    match = TAG.match(version)
    return f"{kept}{tag_name(name, int(match['number']))}" if match and match["line"] == line else ""


def tag_version(root: Path, tag: str, commit: str, message: str) -> None:
    """Tag a version; a tag that is there and means another commit is refused.

    Raises:
        LeaseError: meanwhile another attempt has the line.
        WorkspaceError: the tag is taken.
    """
    if git(root, "tag", "--list", tag):
        if git(root, "rev-parse", f"{tag}^{{commit}}") != commit:
            raise WorkspaceError(
                f"git tag {tag} exists and names another commit: this MLflow store and this repository disagree"
            )
        return
    fence()
    git(root, "tag", "--annotate", tag, commit, "-m", message, env=author(root))
    send_tags(root, [tag])


def fetch_tags(root: Path, line: str) -> None:
    """Bring the tags of a line's versions, and of those that expired, from SAU_GIT_REMOTE where it is set.

    Raises:
        WorkspaceError: it does not answer, or a tag names another commit there than here.
    """
    if remote := settings().git_remote:
        specs = [f"refs/tags/{name}@v*:refs/tags/{name}@v*" for name in (line, f"expired/{line}")]
        git(root, "fetch", "--no-tags", remote, *specs)


def bring_tag(root: Path, rev: str) -> None:
    """Bring a line's tags from SAU_GIT_REMOTE, where it is set, if a version's is asked for and not here."""
    if settings().git_remote and (match := TAG.match(rev)) and not git(root, "tag", "--list", rev):
        fetch_tags(root, match["line"])


def send_tags(root: Path, tags: Iterable[str]) -> None:
    """Send those of these tags that are here to SAU_GIT_REMOTE, where it is set, all or none.

    Raises:
        WorkspaceError: a tag names another commit there, or the remote does not answer.
    """
    if not (remote := settings().git_remote):
        return
    here = set(git(root, "tag", "--list").split())
    if names := [f"refs/tags/{tag}" for tag in tags if tag in here]:
        git(root, "push", "--atomic", "--quiet", remote, *names)


def author(root: Path) -> dict[str, str]:
    """A neutral author where git has none configured."""
    try:
        git(root, "config", "user.email")
        return {}
    except WorkspaceError:
        names = ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), ("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL")
        return {
            n: v for keys, v in zip(names, ("sau", "sau@localhost"), strict=True) for n in keys if n not in os.environ
        }
