"""Work that several processes do together: what comes back, what each error becomes, and what is left of it."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from sau.errors import DataError, WorkspaceError
from sau.files import write_private
from tasks.engines.settings import KEPT, settings
from tasks.engines.several import on_several
from tests.apart import own_settings

pytestmark = pytest.mark.long
SECRET = "Ada was born in 1815"


@pytest.fixture
def home(tmp_path):
    with own_settings(SAU_HOME=str(tmp_path / "home")):
        yield tmp_path / "home"


def found(rows, ranks):
    """Who was there, and whether the rows lie anywhere in clear."""
    files = [path for path in (settings().state / KEPT).rglob("*") if path.is_file()]
    assert files
    in_clear = any(SECRET.encode() in path.read_bytes() for path in files)
    return rows, ranks.merged({ranks.rank: os.getpid()}), in_clear, [oct(path.stat().st_mode & 0o777) for path in files]


def refused(ranks):
    raise DataError("3 rows are none")


def killed(ranks):
    """The second dies while the first waits for it."""
    if ranks.rank:
        os.kill(os.getpid(), signal.SIGKILL)
    return ranks.merged({ranks.rank: 0})


def lingering(folder, ranks):
    """Says that it is there, and stays."""
    write_private(folder / f"{ranks.rank}", str(os.getpid()).encode())
    time.sleep(300)


def test_what_the_first_returns_comes_back_and_nothing_is_left(home):
    rows, there, in_clear, modes = on_several(2, "cpu", "judging", partial(found, [SECRET]))
    assert rows == [SECRET]
    assert len({*there.values(), os.getpid()}) == 3
    assert not in_clear
    assert {*modes} == {"0o600"}
    assert not list((home / KEPT).iterdir())


def test_errors_are_those_of_one_process_and_a_kill_ends_all(home):
    with pytest.raises(DataError, match=r"^3 rows are none$"):
        on_several(2, "cpu", "judging", refused)
    begun = time.monotonic()
    with pytest.raises(WorkspaceError, match="judging: one of its 2 processes has ended"):
        on_several(2, "cpu", "judging", killed)
    assert time.monotonic() - begun < 120
    assert not list((home / KEPT).iterdir())


def test_whoever_starts_them_takes_them_along(home, tmp_path):
    if (flow := os.fork()) == 0:
        try:
            on_several(2, "cpu", "judging", partial(lingering, tmp_path))
        finally:
            os._exit(1)
    pair = []
    while len(pair) < 2:
        time.sleep(0.2)
        pair = [int(path.read_text()) for path in tmp_path.glob("[01]")]
    os.kill(flow, signal.SIGKILL)
    os.waitpid(flow, 0)
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pair):
        assert time.monotonic() < deadline, "they go on"
        time.sleep(0.2)
