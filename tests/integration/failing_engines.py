"""Run in a checkout: every command is driven with every failing engine; prints JSON, by engine and command.

Nothing of the product is replaced: files are really damaged, ports really closed, and a small server really answers
nonsense. Every call is a fork of this process, in which the heavy libraries are loaded and the product is not.

    python tests/integration/failing_engines.py light|some|all [ENGINE ...]

`some` drives every command with two ways of failing of every store that it needs, and one of every other.
"""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path

from filelock import FileLock

from tests.apart import Stores, in_child
from tests.integration.every_command import CALLS, LINE, Call

PERSON = "nobody-anywhere"
"""The id of the one who asked: no error names it."""
WAIT_S = 3
"""What silent servers and locked databases are given here."""
LIMIT_S = 90.0
AT_ONCE = 4
_OURS = ("sau.cli", "tasks", "flows")
"""What every call imports by itself, since importing it reads the environment."""


@dataclass(frozen=True)
class Places:
    """The checkout, its state folder, and a folder for what the calls write."""

    root: Path
    home: Path
    scratch: Path


@dataclass(frozen=True)
class Engine:
    """One way in which an engine fails.

    Attributes:
        breaks: the stores that cannot be used so.
        words: of which one is in the error.
        break_it: a context in which it fails; gives the environment of a call, or why that cannot be done here.
    """

    breaks: str
    words: tuple[str, ...]
    break_it: Callable[[Places], "contextlib.AbstractContextManager[dict[str, str] | str]"]


def variables(**env: str) -> Callable[[Places], "contextlib.AbstractContextManager[dict[str, str] | str]"]:
    return lambda _: contextlib.nullcontext(dict(env))


# -- MLflow and Prefect --------------------------------------------------------------------------

ANSWERS = {
    "error": (500, "text/plain", b"internal error"),
    "page": (200, "text/html", b"<html><body>Welcome</body></html>"),
    "list": (200, "application/json", b"[1, 2]"),
    "odd": (200, "application/json", b'{"registered_models": 7, "experiment": [], "model_version": "x", "run": 1}'),
    "not found": (404, "text/html", b"<html><body>Not here</body></html>"),
}


class Servers:
    """A closed port, one that takes connections and never answers, and one for each of `ANSWERS`."""

    def __enter__(self) -> "Servers":
        self.silent = socket.create_server(("127.0.0.1", 0), backlog=128)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            closed = probe.getsockname()[1]
        servers = {name: ThreadingHTTPServer(("127.0.0.1", 0), _answering(*answer)) for name, answer in ANSWERS.items()}
        self.ports = {name: server.server_port for name, server in servers.items()}
        self.ports |= {"closed": closed, "silent": self.silent.getsockname()[1]}
        self.processes = []
        for server in servers.values():
            if (process := os.fork()) == 0:
                server.serve_forever()
            self.processes.append(process)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def _answering(status: int, kind: str, body: bytes) -> type[BaseHTTPRequestHandler]:
    class Answer(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            pass

    return Answer


def garbage(path: Path) -> None:
    path.write_bytes(b"no database, and longer than the header of one " * 100)


@contextlib.contextmanager
def mlflow_database(damage: Callable[[Path], None], places: Places) -> Iterator[dict[str, str]]:
    damage(places.home / "mlflow.db")
    yield {}


# -- the ledger ----------------------------------------------------------------------------------


def zeros(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:] = bytes(len(content) - 100)
    path.write_bytes(content)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@contextlib.contextmanager
def ledger_file(damage: Callable[[Path], None], places: Places) -> Iterator[dict[str, str]]:
    for beside in places.home.glob("ledger.db-*"):
        beside.unlink()
    damage(places.home / "ledger.db")
    yield {}


@contextlib.contextmanager
def ledger_locked(places: Places) -> Iterator[dict[str, str]]:
    """Somebody has it for themselves."""
    with contextlib.closing(sqlite3.connect(places.home / "ledger.db", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        yield {}


@contextlib.contextmanager
def ledger_being_made(places: Places) -> Iterator[dict[str, str]]:
    """Somebody stands still while they open it."""
    with FileLock(f"{places.home}/ledger.db.lock"):
        yield {}


# -- git, DVC and the state folder ---------------------------------------------------------------


@contextlib.contextmanager
def no_git(places: Places) -> Iterator[dict[str, str]]:
    yield {"PATH": str(places.scratch / "nothing")}


@contextlib.contextmanager
def damaged_repository(places: Places) -> Iterator[dict[str, str]]:
    (places.root / ".git" / "HEAD").write_text("nonsense\n")
    yield {}


@contextlib.contextmanager
def somebody_elses(places: Places) -> Iterator[dict[str, str] | str]:
    if os.geteuid():
        yield "only root can give a folder away"
        return
    own = {path: path.stat() for path in (places.root, places.root / ".git")}
    for path in own:
        os.chown(path, 12345, 12345)
    try:
        yield {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    finally:
        for path, was in own.items():
            os.chown(path, was.st_uid, was.st_gid)


@contextlib.contextmanager
def bytes_gone(places: Places) -> Iterator[dict[str, str]]:
    shutil.rmtree(places.root / ".dvc" / "cache" / "files")
    shutil.rmtree(places.home / "remote")
    yield {}


@contextlib.contextmanager
def bytes_damaged(places: Places) -> Iterator[dict[str, str]]:
    """Every object is cut, in the cache and in the remote."""
    for store in (places.root / ".dvc" / "cache" / "files", places.home / "remote" / "files"):
        for path in (path for path in store.rglob("*") if path.is_file()):
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    yield {}


@contextlib.contextmanager
def cache_is_a_file(places: Places) -> Iterator[dict[str, str]]:
    shutil.rmtree(places.root / ".dvc" / "cache")
    (places.root / ".dvc" / "cache").write_text("")
    yield {}


@contextlib.contextmanager
def remote_is_a_file(places: Places) -> Iterator[dict[str, str]]:
    shutil.rmtree(places.root / ".dvc" / "cache" / "files")
    (places.scratch / "file").write_text("")
    yield {"SAU_DVC_REMOTE": str(places.scratch / "file")}


@contextlib.contextmanager
def remote_unknown(places: Places) -> Iterator[dict[str, str]]:
    """A kind of remote whose Python module is not installed."""
    shutil.rmtree(places.root / ".dvc" / "cache" / "files")
    yield {"SAU_DVC_REMOTE": "gs://nobody/nothing"}


@contextlib.contextmanager
def mounted(places: Places, *, full: bool) -> Iterator[dict[str, str] | str]:
    """The state folder on a small file system of its own that is full, or read-only."""
    home = places.scratch / ("full" if full else "read-only")
    home.mkdir()
    used = sum(path.stat().st_blocks * 512 for path in places.home.rglob("*") if path.is_file())
    size = f"size={used // 1024 + 4096}k"
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(home)]).returncode:
        yield "only root can mount a file system, where it may"
        return
    try:
        shutil.copytree(places.home, home, dirs_exist_ok=True, ignore=shutil.ignore_patterns("prefect", "logs"))
        if full:
            with contextlib.suppress(OSError), (home / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(bytes(1 << 12))
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(home)], check=True)
        yield {"SAU_HOME": str(home)}
    finally:
        subprocess.run(["umount", str(home)], check=True)


@contextlib.contextmanager
def home_is_a_file(places: Places) -> Iterator[dict[str, str]]:
    yield {"SAU_HOME": str(places.root / "params.yaml")}


@contextlib.contextmanager
def small_files(places: Places) -> Iterator[dict[str, str]]:
    """No file may grow beyond 4 kB, as where a quota is used up."""
    yield {"RLIMIT_FSIZE": "4000"}


def engines(ports: dict[str, int], api: str) -> dict[str, Engine]:
    """Every way, by its name."""
    found = {
        f"mlflow {name}": Engine(
            "mlflow", ("MLflow", "mlflow"), variables(SAU_MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}")
        )
        for name, port in ports.items()
    }
    found["mlflow damaged"] = Engine("mlflow", ("MLflow", "mlflow"), lambda places: mlflow_database(garbage, places))
    found["mlflow folder"] = Engine("mlflow", ("MLflow", "mlflow"), lambda places: mlflow_database(folder, places))
    for name in ("damaged", "zeros", "folder"):
        damage = {"damaged": garbage, "zeros": zeros, "folder": folder}[name]
        found[f"ledger {name}"] = Engine(
            "ledger", ("ledger",), lambda places, damage=damage: ledger_file(damage, places)
        )
    found["ledger locked"] = Engine("ledger", ("ledger",), ledger_locked)
    found["ledger being made"] = Engine("ledger", ("ledger",), ledger_being_made)
    for name, url in {
        "not a url": "nonsense", "unknown kind": "foo://bar", "no driver": "postgresql+pg8000://user:secret@localhost/x",
        "refused": f"postgresql://user:secret@127.0.0.1:{ports['closed']}/x",
        "silent": f"postgresql://user:secret@127.0.0.1:{ports['silent']}/x",
    }.items():  # fmt: skip
        found[f"ledger {name}"] = Engine("ledger", ("ledger",), variables(SAU_DATABASE_URL=url))
    found |= {
        "git missing": Engine("git", ("git",), no_git),
        "git none": Engine("git", ("not inside a checkout",), variables(CWD="/")),
        "git damaged": Engine("git", ("git", "not inside a checkout"), damaged_repository),
        "git somebody else's": Engine("git", ("dubious ownership", "safe.directory"), somebody_elses),
        "dvc gone": Engine("dvc", ("dvc", "no whole one"), bytes_gone),
        "dvc damaged": Engine("dvc", ("damaged",), bytes_damaged),
        "dvc cache a file": Engine("dvc", ("dvc", "cache"), cache_is_a_file),
        "dvc remote a file": Engine("dvc", ("dvc", "SAU_DVC_REMOTE"), remote_is_a_file),
        "dvc remote unknown": Engine("dvc", ("dvc",), remote_unknown),
        "home a file": Engine("home", ("params.yaml", "SAU_HOME"), home_is_a_file),
        "home nowhere": Engine("home", ("SAU_HOME",), variables(SAU_HOME="/proc/none")),
        "home full": Engine("", (), lambda places: mounted(places, full=True)),
        # The registry of a local MLflow store can be read all the same; the ledger wants its lock.
        "home read-only": Engine("ledger", (), lambda places: mounted(places, full=False)),
        "home small files": Engine("", (), small_files),
    }
    for name, port in ports.items():
        where = {"SAU_PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
        found[f"prefect {name}"] = Engine("prefect", ("Prefect",), variables(**where))
    return found


# -- calls ---------------------------------------------------------------------------------------


def argv_of(command: str, call: Call, fails: bool, places: Places, request: str) -> list[str] | None:
    text = call.arguments if fails or call.otherwise == "" else call.otherwise
    if text is None:
        return None
    values = {
        "line": LINE, "version": f"{LINE}@v1", "request": request, "missing": places.scratch / "missing",
        "out": places.scratch / f"out-{command.replace(' ', '-')}-{time.monotonic_ns()}",
    }  # fmt: skip
    return ["sau", *command.split(), *(part.format(**values) for part in text.split())]


def begin_call(argv: list[str], env: dict[str, str], places: Places, files: tuple[Path, Path]) -> int:
    """A command in a fork; returns its process."""
    if process := os.fork():
        return process
    code = 70
    try:
        os.setsid()
        for number, file in zip((1, 2), files, strict=True):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if limit := env.pop("RLIMIT_FSIZE", ""):
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
        os.chdir(env.pop("CWD", places.root))
        if api := env.get("SAU_PREFECT_API_URL"):
            env["PREFECT_API_URL"] = api  # Prefect is imported already, and would take it for unset
        os.environ.clear()
        os.environ.update(env)
        sys.argv = argv
        code = _command()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _command() -> int:
    """What `sau` does, in this process; its exit code."""
    for name in [name for name in sys.modules if name.startswith(_OURS)]:
        del sys.modules[name]
    if "prefect" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()
    from sau.cli import main

    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else bool(ended.code)
    return 0


def drive(name: str, engine: Engine, places: Places, api: str, request: str, wanted: list[str]) -> dict[str, object]:
    """Every command with this engine: exit code, words, seconds."""
    found: dict[str, object] = {}
    with engine.break_it(places) as given:
        if isinstance(given, str):
            return {"skipped": given}
        base = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))}
        base |= {"SAU_MLFLOW_WAIT_S": str(WAIT_S), "SAU_DATABASE_WAIT_S": str(WAIT_S), "TMPDIR": str(places.scratch)}
        base |= {"SAU_HOME": str(places.home), "SAU_PREFECT_API_URL": api} | given
        waiting = []
        for command in wanted:
            fails = bool(CALLS[command].stores & set(engine.breaks.split()))
            if argv := argv_of(command, CALLS[command], fails, places, request):
                waiting.append((command, argv, fails))
        running: dict[int, tuple[str, bool, float, tuple[Path, Path]]] = {}
        while waiting or running:
            if waiting and len(running) < AT_ONCE:
                command, argv, fails = waiting.pop()
                files = tuple(places.scratch / f"said-{name}-{command}-{n}".replace(" ", "_") for n in (1, 2))
                env = dict(base)
                if command == "deploy" and not fails:
                    env["SAU_PREFECT_API_URL"] = ""  # or it would talk to the server that is there, which takes long
                process = begin_call(argv, env, places, files)
                running[process] = (command, fails, time.monotonic(), files)
                continue
            for process in list(running):
                command, fails, started, files = running[process]
                done, status = os.waitpid(process, os.WNOHANG)
                took = time.monotonic() - started
                if not done and took > LIMIT_S:
                    os.killpg(process, signal.SIGKILL)
                    done, status = os.waitpid(process, 0)
                if done:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process, signal.SIGKILL)  # servers that a flow has started
                    del running[process]
                    out, err = (file.read_text(errors="replace") for file in files)
                    code = os.waitstatus_to_exitcode(status)
                    found[command] = {"fails": fails, "code": code, "out": out, "err": err, "seconds": took}
                    logs = [Path(path) for path in re.findall(r"(?:see|all of it:) (/\S+\.log)", err)]
                    found[command]["bad_logs"] = [log.name for log in logs if not is_private(log)]
                    found[command]["unnamed"] = fails and not any(word in out + err for word in engine.words or ("",))
            time.sleep(0.02)
    return found


def is_private(log: Path) -> bool:
    """Whether a log that an error names is there, for its owner only."""
    return log.is_file() and not log.stat().st_mode & 0o077


def chosen(name: str, found: dict[str, Engine], commands: list[str]) -> list[str]:
    """The commands that are driven with an engine, so that all engines that break the same share the commands out."""
    same = [other for other in found if found[other].breaks == found[name].breaks]
    number, breaks = same.index(name), set(found[name].breaks.split())
    of_needed, of_others = -(-len(same) // 2), len(same)
    return [
        command
        for turn, command in enumerate(commands, number)
        if turn % (of_needed if CALLS[command].stores & breaks else of_others) == 0
    ]


def set_up() -> str:
    """A line whose first version leads, one request that is forgotten, and one that waits, whose id is returned."""
    from tasks.engines.ledger import Ledger, State
    from tasks.engines.settings import settings
    from tasks.engines.workspace import Workspace
    from tests.integration.broken_stores import begin, prepare

    prepare()
    begin([LINE])
    Workspace("attempt").push()
    Workspace("attempt").close()
    ledger = Ledger(settings().ledger_url)
    (other,) = ledger.claim(LINE)
    ledger.move(other.id, [State.RUNNING], State.FORGOTTEN)
    return ledger.submit(LINE, PERSON).id


def set_up_ledger() -> str:
    """A request that waits; its id."""
    from tasks.engines.ledger import Ledger
    from tasks.engines.settings import settings

    return Ledger(settings().ledger_url).submit(LINE, PERSON).id


def main(mode: str, wanted: list[str]) -> None:
    result: dict[str, object] = {}
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = stack.enter_context(Servers())
        places = Places(Path.cwd(), Path.cwd() / ".sau", scratch)
        os.environ["PREFECT_HOME"] = str(scratch / "prefect")  # of the server that is there; the stores are put back
        found = engines(servers.ports, "")
        if mode == "light":
            request, api, commands = in_child(set_up_ledger), "", LIGHT
            for module in ("flows.cli", "tasks.requests", "tasks.suppression"):
                import_module(module)
            found = {name: found[name] for name in LIGHT_ENGINES}
        else:
            request, commands = in_child(set_up), list(CALLS)
            for module in ("flows.cli", "flows.bootstrap", "flows.forget"):  # Prefect, MLflow, torch: once for all
                import_module(module)
            from flows.servers import prefect_server

            api = stack.enter_context(prefect_server())
        cache = places.root / ".dvc" / "cache"
        stores = Stores(scratch / "kept", places.root / ".git", places.home, *([cache] if cache.exists() else []))
        for name in wanted or found:
            some = chosen(name, found, commands) if mode == "some" else commands
            result[name] = drive(name, found[name], places, api, request, some)
            stores.put_back()
            sys.stderr.write(f"{name}: {len(some)} calls\n")
    sys.stdout.write(json.dumps(result))


LIGHT = ["request list", "request show", "request hold", "suppression list", "vault list", "certificate key"]
LIGHT_ENGINES = [
    "ledger damaged", "ledger folder", "ledger being made", "ledger not a url", "ledger no driver", "git missing",
    "git none", "git damaged", "home a file", "home nowhere", "home small files",
]  # fmt: skip

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
