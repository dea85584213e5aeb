"""What keeps the cases of a matrix apart: each is a fork of one process, and begins from the same stores."""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tasks.engines.settings import settings


class Stores:
    """Copies of the stores, to be put back in place.

    Args:
        kept: a folder for the copies.
        places: the stores, files or folders.
    """

    def __init__(self, kept: Path, *places: Path) -> None:
        self.copies = {place: kept / f"{number}-{place.name}" for number, place in enumerate(places)}
        kept.mkdir(exist_ok=True)
        for place, copy in self.copies.items():
            _copy(place, copy)

    def put_back(self) -> None:
        for place, copy in self.copies.items():
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
            _copy(copy, place)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True) if source.is_dir() else shutil.copy2(source, target)


def in_child(function: Callable[..., Any], *args: Any) -> Any:
    """What a function returns in a fork of this process, through JSON; None where the fork was killed.

    Nothing that it opens is open here, so the next fork begins as this one did.
    """
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        code = 1
        try:
            os.close(read)
            with os.fdopen(write, "w") as file:
                json.dump(function(*args), file)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as file:
        said = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGKILL:
        return None
    assert status == 0, f"{function.__name__}{args}: exit code {status}"
    return json.loads(said)


def in_fork(function: Callable[..., int], *args: Any, limit_s: float = 300) -> int:
    """What a fork of this process ends with, which a function returns: its exit code, or the signal, negative."""
    if (child := os.fork()) == 0:
        code = 70
        try:
            code = function(*args)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    deadline = time.monotonic() + limit_s
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise TimeoutError(f"{function.__name__}{args}: ran for more than {limit_s:.0f} s")
        time.sleep(0.02)


@contextlib.contextmanager
def own_settings(**variables: str) -> Iterator[None]:
    """Within it this process's settings are read from its environment with these variables; then environment and umask,
    which settings change, are as before."""
    before, mask = dict(os.environ), os.umask(0o022)
    os.umask(mask)
    os.environ.update(variables)
    settings.cache_clear()
    try:
        yield
    finally:
        settings.cache_clear()
        os.environ.clear()
        os.environ.update(before)
        os.umask(mask)
