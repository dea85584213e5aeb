"""The examples below deploy/: what they name is there."""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

from tasks.engines.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
ELSEWHERE = {"SAU_VAULT_HOME", "SAU_VAULT_KEY", "SAU_VAULT_COMMAND"}
"""Variables that the vault reads itself."""


def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


def test_every_variable_is_a_setting():
    known = {f"SAU_{name.upper()}" for name in Settings.model_fields} | ELSEWHERE
    for file in DEPLOY.iterdir():
        named = set(re.findall(r"\bSAU_[A-Z_]+\b", file.read_text(encoding="utf-8")))
        assert named <= known, file.name


def test_every_service_waits_for_one_that_is_there_and_every_volume_is_declared():
    stack = compose()
    for name, service in stack["services"].items():
        assert set(service.get("depends_on", ())) <= stack["services"].keys(), name
        for volume in service.get("volumes", ()):
            assert volume.partition(":")[0] in stack["volumes"], name
        for config in service.get("configs", ()):
            assert config["source"] in stack["configs"]
    stores = {"SAU_DATABASE_URL", "SAU_MLFLOW_TRACKING_URI", "SAU_PREFECT_API_URL", "SAU_DVC_REMOTE", "SAU_GIT_REMOTE"}
    assert stores <= stack["services"]["worker"]["environment"].keys()
    assert all("0.0.0.0" not in port for service in stack["services"].values() for port in service.get("ports", ()))


def test_the_image_installs_extras_that_there_are():
    (extras,) = re.findall(r"-e '\.\[(.*)\]'", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
