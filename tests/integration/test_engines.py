"""The engines' own room: their environment comes first, and DVC's settings survive odd names."""

import sys

import pytest

PREFECT = """
import tasks.engines.orchestration
from prefect.settings import get_current_settings
found = get_current_settings()
print(found.home, found.server.analytics_enabled)
"""
MLFLOW = """
import os, sys
import sau.cli, flows.cli
assert not {"mlflow", "prefect", "torch"} & sys.modules.keys()
import tasks.versions.lineage
print(os.environ["MLFLOW_DISABLE_TELEMETRY"], os.environ["MLFLOW_TRACKING_URI"])
"""
WORKTREE = """
import subprocess, sys
from tasks.engines.workspace import Workspace
ws = Workspace("odd").open()
command = [sys.executable, "-m", "dvc", "config", "remote.store.url"]
said = subprocess.run(command, cwd=ws.path, capture_output=True, text=True)
print(said.stdout.strip())
ws.close()
"""


@pytest.fixture(scope="module")
def checkout(copy_checkout, tmp_path_factory):
    return copy_checkout(tmp_path_factory.mktemp("engines") / "checkout")


def test_prefect_is_imported_with_its_environment_set(checkout):
    said = checkout.run(sys.executable, "-c", PREFECT).stdout.split()
    assert said == [f"{checkout.path}/.sau/prefect", "False"]


def test_commands_that_read_versions_load_mlflow_with_its_environment_set(checkout):
    said = checkout.run(sys.executable, "-c", MLFLOW).stdout.split()
    assert said == ["true", f"sqlite:///{checkout.path}/.sau/mlflow.db"]


@pytest.mark.parametrize("name", ["plain", "a #1, b", "it's ümlaut [x]"])
def test_a_remote_of_any_name_is_the_one_that_dvc_uses(checkout, tmp_path, name):
    remote = str(tmp_path / name)
    said = checkout.run(sys.executable, "-c", WORKTREE, SAU_DVC_REMOTE=remote).stdout
    assert said.strip() == remote
