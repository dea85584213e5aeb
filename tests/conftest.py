"""Fixtures shared by all tests. Nothing here reaches the network, and the checkout under test is always a copy."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain nothing from two threads that wait for each other
ROOT = Path(__file__).resolve().parent.parent


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
        return self.run(sys.executable, "-m", "flows.cli", *args, check=check, **extra)

    def git(self, *args: str) -> str:
        return self.run("git", *args).stdout.strip()

    def dvc(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return self.run(sys.executable, "-m", "dvc", *args, check=check, PATH=path, DVC_NO_ANALYTICS="1")

    def clone(self, path: Path) -> "Checkout":
        self.git("clone", "--quiet", str(self.path), str(path))
        return Checkout(path)


def copy_checkout(target: Path, params: dict | None = None) -> Checkout:
    """The working tree as it is now, uncommitted changes included, committed in a repository of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    if params:
        from sau.params import merge

        file = target / "params.yaml"
        file.write_text(yaml.safe_dump(merge(yaml.safe_load(file.read_text()), params)))
    checkout = Checkout(target)
    checkout.git("init", "--quiet", "--initial-branch=main")
    checkout.git("add", "--all")
    checkout.git("-c", "user.name=t", "-c", "user.email=t@t.invalid", "commit", "--quiet", "--message", "start")
    return checkout
