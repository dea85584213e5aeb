"""Fixtures shared by all tests. Nothing here reaches the network, and the checkout under test is always a copy."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain nothing from two threads that wait for each other
ROOT = Path(__file__).resolve().parent.parent
LINE, PERSON = "tiny", "demo-0002"


class Checkout:
    """A copy of the project's working tree as its own git repository: what a user's clone is."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def env(self, **extra: str) -> dict[str, str]:
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("SAU_", "PREFECT_", "MLFLOW_", "DVC_", "GIT_"))
        }
        return kept | {"PYTHONPATH": str(self.path), "OMP_NUM_THREADS": "1", "COLUMNS": "200"} | extra

    def run(self, *command: str, check: bool = True, **extra: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=self.path, capture_output=True, text=True, env=self.env(**extra), timeout=800
        )
        if check:
            assert done.returncode == 0, (
                f"{command}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
            )
        return done

    def sau(self, *args: str, check: bool = True, **extra: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "sau", *args, check=check, **extra)

    def git(self, *args: str) -> str:
        return self.run("git", *args).stdout.strip()

    def dvc(self, *args: str, check: bool = True, **extra: str) -> subprocess.CompletedProcess[str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return self.run(sys.executable, "-m", "dvc", *args, check=check, PATH=path, DVC_NO_ANALYTICS="1", **extra)

    def pinned_checkpoint(self, tag: str) -> str:
        """What DVC knows a version's checkpoint by."""
        return yaml.safe_load(self.git("show", f"{tag}:dvc.lock"))["stages"]["package"]["outs"][0]["md5"]

    def clone(self, path: Path) -> "Checkout":
        self.git("clone", "--quiet", str(self.path), str(path))
        return Checkout(path)


def _copy_checkout(target: Path) -> Checkout:
    """The working tree as it is now, uncommitted changes included, committed in a repository of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    checkout = Checkout(target)
    checkout.git("init", "--quiet", "--initial-branch=main")
    checkout.git("add", "--all")
    checkout.git("-c", "user.name=t", "-c", "user.email=t@t.invalid", "commit", "--quiet", "--message", "start")
    return checkout


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """One file that needs the whole `run` first, then who needs none, then the others: nobody waits for it."""
    waiting = list(dict.fromkeys(item.path for item in items if "run" in item.fixturenames))
    late = set(waiting[1:])
    items.sort(key=lambda item: (item.path in late or "unit" in item.path.parts, item.path not in late))


@pytest.fixture(scope="session")
def copy_checkout():
    """What copies the working tree into a repository of its own."""
    return _copy_checkout


@pytest.fixture(scope="session")
def run(copy_checkout, tmp_path_factory):
    """The checkout after `bootstrap`, one `request submit` and one `forget`, and what the commands said.

    One for all test processes: the first that asks makes it, the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    said = shared / "e2e.json"
    with FileLock(shared / "e2e.lock"):
        if not said.exists():
            said.write_text(json.dumps(_whole_run(copy_checkout(tmp_path_factory.mktemp("e2e") / "checkout"))))
    path, outputs = json.loads(said.read_text())
    checkout = Checkout(Path(path))
    vars(checkout).update(outputs)
    return checkout


def _whole_run(checkout):
    """Where the checkout is, and what the commands said."""
    bootstrap = json.loads(checkout.sau("bootstrap", "--line", LINE, "--json").stdout)
    request = json.loads(
        checkout.sau("request", "submit", "--line", LINE, "--subject", PERSON, "--reason", "objection", "--json").stdout
    )
    forget = checkout.sau("forget", "--line", LINE, "--json", check=False)
    assert forget.returncode in (0, 3, 4), forget.stderr[-4000:]
    return str(checkout.path), {
        "bootstrap": bootstrap,
        "request": request,
        "outcome": json.loads(forget.stdout),
        "forget_exit": forget.returncode,
    }
