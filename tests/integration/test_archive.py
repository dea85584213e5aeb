"""Versions of a real registry as deltas, by the command line: archived, expired, restored, handed on."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sau.checkpoint.manifest import check_files, read_manifest
from sau.checkpoint.sparse import PackageParams, save_sparse
from sau.mask import apply_mask
from sau.models.layers import prunable
from sau.models.sources import ModelParams, TinyParams, base_model
from tasks.engines.settings import Settings
from tasks.engines.tracking import Tracking
from tasks.versions.record import VersionRecord
from tasks.versions.registry import Registry

ROOT = Path(__file__).resolve().parents[2]
TINY = ModelParams(tiny=TinyParams(vocab_size=400, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2))
PACKAGE = PackageParams(dtype="bfloat16")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An MLflow store with three versions of line `tiny`, each a small masked step from the one before."""
    home = tmp_path_factory.mktemp("home")
    registry = Registry(Tracking(Settings(root=ROOT, home=home)))
    lm = base_model(TINY, seed=0)
    torch.manual_seed(1)
    lm.mask = {f"{name}.weight": torch.rand_like(m.weight) > 0.5 for name, m in prunable(lm.model)}
    for number in (1, 2, 3):
        with torch.no_grad():
            for parameter in lm.model.parameters():
                parameter.add_(1e-6 * torch.randn_like(parameter))
        apply_mask(lm.model, lm.mask)
        saved = save_sparse(lm, home / f"made-v{number}", structure="unstructured", package=PACKAGE)
        record = VersionRecord(
            line="tiny", request_ids=(str(number),), weights_digest=saved.weights_digest, mask_digest=saved.mask_digest,
            side_digest=saved.side_digest, sparsity=saved.sparsity, structure=saved.structure, data_md5="",
            checkpoint_md5="", params_digest="", training_digest="", code_commit="", git_commit="",
            checkout_dirty=False, verdict="PASS",
        )  # fmt: skip
        with registry.tracking.run("tiny", "register") as run_id:
            registry.add(record, home / f"made-v{number}", run_id=run_id, description="")
    return home


def sau(home, *args, check=True):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SAU_", "MLFLOW_"))}
    env |= {"SAU_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "sau", *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env, timeout=300)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def test_a_chain_comes_back_from_its_archive_after_old_versions_have_expired(home, tmp_path):
    kept = json.loads(sau(home, "archive", tmp_path / "archive", "--max-hops", "4", "--json").stdout)
    assert [(version["name"], version["hops"]) for version in kept] == [("v1", 2), ("v2", 1), ("v3", 0)]
    assert kept[0]["num_bytes"] < 0.5 * kept[2]["num_bytes"]
    for version in kept:
        sau(home, "restore", tmp_path / "archive" / version["name"], tmp_path / version["name"])
        original = home / f"made-{version['name']}"
        restored = check_files(tmp_path / version["name"])
        assert restored.manifest_digest == check_files(original).manifest_digest
        assert restored.weights_digest == version["weights_digest"]
    again = json.loads(sau(home, "archive", tmp_path / "archive", "--json").stdout)
    assert again == kept


def test_a_bound_on_hops_is_kept(home, tmp_path):
    kept = json.loads(sau(home, "archive", tmp_path / "archive", "--max-hops", "1", "--json").stdout)
    assert [version["hops"] for version in kept] == [1, 0, 0]


def test_who_has_the_old_version_gets_the_new_one_as_a_delta(home, tmp_path):
    said = sau(home, "export", "tiny@v3", tmp_path / "delta", "--delta", "tiny@v2").stdout
    assert read_manifest(home / "made-v3").weights_digest in said
    sau(home, "restore", tmp_path / "delta", tmp_path / "new", "--base", home / "made-v2")
    assert check_files(tmp_path / "new").manifest_digest == read_manifest(home / "made-v3").manifest_digest
    refused = sau(home, "restore", tmp_path / "delta", tmp_path / "other", "--base", home / "made-v1", check=False)
    assert refused.returncode == 1
    assert "this delta needs base" in refused.stderr
    assert not (tmp_path / "other").exists()


def test_another_lines_archive_is_refused(home, tmp_path):
    shutil.copytree(home / "made-v2", tmp_path / "archive" / "v1")
    refused = sau(home, "archive", tmp_path / "archive", check=False)
    assert refused.returncode == 1
    assert "has" in refused.stderr
    assert [path.name for path in (tmp_path / "archive").iterdir()] == ["v1"]


def test_an_export_in_another_dtype_says_that_it_has_to_be_verified_again(home, tmp_path):
    plain = sau(home, "export", "tiny@v3", tmp_path / "same", "--dtype", "bfloat16").stdout
    assert "sau verify" not in plain, "the version was shipped and verified in bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "same").dtype == torch.bfloat16
    lossy = sau(home, "export", "tiny@v3", tmp_path / "odd", "--dtype", "float8", check=False)
    assert lossy.returncode == 2
