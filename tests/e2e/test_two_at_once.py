"""Two commands at the same moment, in a fresh clone that has nothing in its DVC cache: both do what they were asked."""

import json
import sqlite3
import subprocess
import sys

import pytest

LINE, PERSON = "tiny", "demo-0002"


@pytest.fixture
def clone(run, tmp_path):
    return run.clone(tmp_path / "clone")


def at_once(checkout, *commands, **env):
    """What each of the commands said as JSON, all begun before the first is waited for."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "sau", *command, "--json"],
            cwd=checkout.path,
            env=checkout.env(**env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    ended = [(process, *process.communicate(timeout=600)) for process in started]
    assert [process.returncode for process, _, _ in ended] == [0] * len(ended), [said for _, _, said in ended]
    return [json.loads(out) for _, out, _ in ended]


def test_two_requests(run, clone):
    stores = {
        "SAU_MLFLOW_TRACKING_URI": f"sqlite:///{run.path}/.sau/mlflow.db",
        "SAU_DVC_REMOTE": f"{run.path}/.sau/remote",
        "SAU_DATABASE_URL": f"sqlite:///{clone.path}/ledger.db",  # a copy: it says who is who
    }
    with sqlite3.connect(run.path / ".sau" / "ledger.db") as own, sqlite3.connect(clone.path / "ledger.db") as copied:
        own.backup(copied)
    submit = [("request", "submit", "--line", LINE, "--subject", person) for person in ("demo-0007", "demo-0008")]
    taken = at_once(clone, *submit, **stores)
    assert [request["state"] for request in taken] == ["open", "open"]
    assert len({request["id"] for request in taken}) == 2
    assert clone.git("worktree", "list").count("\n") == 0
    assert list((clone.path / ".sau" / "work").iterdir()) == []


def test_a_ledger_that_knows_nobody_of_the_line_is_said(run, clone):
    stores = {
        "SAU_MLFLOW_TRACKING_URI": f"sqlite:///{run.path}/.sau/mlflow.db",
        "SAU_DVC_REMOTE": f"{run.path}/.sau/remote",
    }
    refused = clone.sau("request", "submit", "--line", LINE, "--subject", "demo-0007", check=False, **stores)
    assert refused.returncode == 1
    assert "is SAU_DATABASE_URL the one it was made with?" in " ".join(refused.stderr.split())


def test_one_version_brought_back_twice(run, clone):
    command = ("reproduce", f"{LINE}@v2", "--remote", f"{run.path}/.sau/remote")
    both = at_once(clone, command, command)
    assert [result["weights_digest"] for result in both] == [run.outcome["weights_digest"]] * 2
    assert [path.name for path in (clone.path / ".sau" / "models").iterdir()] == [f"{LINE}@v2"]
    assert clone.git("worktree", "list").count("\n") == 0
