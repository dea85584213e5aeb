"""The wheel alone, in an environment of its own: what it can do, and how it says what it cannot."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sau.cli.app import OF_A_CHECKOUT
from sau.data.demo import demo_rows
from sau.data.records import write_shards
from sau.models.dense import save_dense
from sau.models.sources import ModelParams, TinyParams, base_model

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.wheel


@pytest.fixture(scope="module")
def sau(tmp_path_factory):
    """Runs the installed command in a folder that is no checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    install = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    subprocess.run([*install, "-c", ROOT / "constraints.txt", wheel], check=True)
    env = {key: value for key, value in os.environ.items() if not key.startswith(("SAU_", "PYTHON"))}

    def call(*args, program="sau"):
        command = [folder / "env" / "bin" / program, *map(str, args)]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)

    return call


def test_it_has_no_engine_and_no_flows(sau):
    absent = ["flows", "tasks", "prefect", "mlflow", "dvc"]
    code = f"import importlib.util; print([n for n in {absent} if importlib.util.find_spec(n)])"
    assert sau("-c", code, program="python").stdout.strip() == "[]"


def test_verify_judges_a_model(sau, tmp_path):
    lm = base_model(ModelParams(tiny=TinyParams(vocab_size=400, hidden_size=32, num_layers=1, num_heads=2)), seed=0)
    save_dense(lm, tmp_path / "model")
    for part, people in (("forget", "a"), ("retain", "bc"), ("holdout", "de")):
        write_shards([row for who in people for row in demo_rows(who, seed=1)], tmp_path / part)
    rows = [f"--{part}={tmp_path / part}" for part in ("forget", "retain", "holdout")]
    done = sau("verify", f"--model={tmp_path / 'model'}", *rows, f"--json={tmp_path / 'record.json'}")
    assert done.returncode == 4, done.stderr  # no controls: INCONCLUSIVE
    assert json.loads((tmp_path / "record.json").read_text())["verdict"] == "INCONCLUSIVE"


@pytest.mark.parametrize("command", OF_A_CHECKOUT)
def test_what_needs_a_checkout_says_so_in_one_line(sau, command):
    done = sau(command)
    assert done.returncode == 1
    assert f"`sau {command}` runs from a checkout" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_six_calls_are_there(sau):
    code = "import sau; print(*(callable(getattr(sau, name)) for name in sau.__all__))"
    assert sau("-c", code, program="python").stdout.split() == ["True"] * 6
