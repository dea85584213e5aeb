"""DVC: its command, run as a child that ends with this process, and what it pins."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sau.errors import WorkspaceError
from tasks.engines.leases import fence
from tasks.engines.repository import bring_tag, git
from tasks.engines.settings import settings

LOCK_RETRIES, LOCK_WAIT_S = 20, 0.5

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
