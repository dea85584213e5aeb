"""A PostgreSQL server of a test's own, where its programs are installed (`apt-get install postgresql`)."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from sqlalchemy.engine import make_url


def programs() -> Path | None:
    """The folder of initdb and pg_ctl; None where they are not installed."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    return installed[-1].parent if installed[-1].is_file() else None


@contextmanager
def server() -> Iterator[str]:
    """The URL of an empty database, by a socket that only this test knows."""
    found = programs()
    assert found is not None
    user = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}  # it refuses to run as root
    with TemporaryDirectory(prefix="sau-pg-", dir="/tmp") as folder:
        if user:
            owner = pwd.getpwnam("postgres")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        data, log = f"{folder}/data", f"{folder}/log"

        def run(*command: str) -> None:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, **user)
            assert done.returncode == 0, done.stderr

        run(str(found / "initdb"), "--pgdata", data, "--auth", "trust", "--username", "sau", "--no-sync")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        run(str(found / "pg_ctl"), "--pgdata", data, "--wait", "--log", log, "--options", options, "start")
        try:
            yield f"postgresql+psycopg2://sau@/postgres?host={folder}"
        finally:
            run(str(found / "pg_ctl"), "--pgdata", data, "--wait", "--mode", "immediate", "stop")


@contextmanager
def silent(url: str) -> Iterator[None]:
    """The server of such a URL stands still: its connections stay open, and nothing on them is answered."""
    (number, *_) = Path(make_url(url).query["host"], "data", "postmaster.pid").read_text().split("\n")
    postmaster = psutil.Process(int(number))
    processes = [postmaster, *postmaster.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()
