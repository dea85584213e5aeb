"""Any version again from git and the DVC remote alone, bit for bit, in a clone that has nothing else."""

import json
import shutil

import pytest

from sau.checkpoint.sparse import check_files

LINE, PERSON = "tiny", "demo-0002"


@pytest.fixture(scope="session")
def second(run, tmp_path_factory):
    """A fresh clone: the repository and the DVC remote, no MLflow, no Prefect, no cache."""
    return run.clone(tmp_path_factory.mktemp("second") / "clone")


def test_a_second_clone_brings_the_version_back_and_makes_it_again_bit_for_bit(run, second):
    done = second.sau("reproduce", f"{LINE}@v2", "--rerun", "--remote", f"{run.path}/.sau/remote", "--json")
    result = json.loads(done.stdout)
    assert result["equal"] is True
    assert result["model_digest"] == result["rerun_digest"] == run.outcome["model_digest"]
    assert check_files(result["folder"]).digest == run.outcome["model_digest"]
    assert second.git("status", "--porcelain") == ""


def test_the_plain_dvc_way_works_too(run, second):
    second.dvc("remote", "modify", "--local", "store", "url", f"{run.path}/.sau/remote")
    second.git("checkout", "--quiet", f"{LINE}@v2")
    second.dvc("pull")
    assert check_files(second.path / "checkpoint").digest == run.outcome["model_digest"]
    assert "up to date" in second.dvc("status").stdout
    assert "Running stage" not in second.dvc("repro").stdout
    assert second.dvc("repro", "--force", "--no-run-cache").stdout.count("Running stage") == 3
    assert check_files(second.path / "checkpoint").digest == run.outcome["model_digest"]
    assert second.git("status", "--porcelain") == ""


def test_the_forgotten_rows_are_not_in_the_new_data_set(run, second):
    assert not (second.path / "data" / "train" / f"{PERSON}.jsonl").exists()
    assert (second.path / "data" / "train" / "demo-0001.jsonl").exists()


def test_a_remote_that_was_tampered_with_is_refused(run, tmp_path):
    remote = tmp_path / "remote"
    shutil.copytree(run.path / ".sau" / "remote", remote)

    def stored_as(md5):
        return remote / "files" / "md5" / md5[:2] / md5[2:]

    entries = json.loads(stored_as(run.pinned_checkpoint(f"{LINE}@v2")).read_text())
    files = {entry["relpath"]: entry["md5"] for entry in entries}
    stored = stored_as(files["sparse.safetensors"])
    stored.chmod(0o644)
    raw = bytearray(stored.read_bytes())
    raw[-1] ^= 1
    stored.write_bytes(raw)
    victim = run.clone(tmp_path / "clone")
    done = victim.sau("reproduce", f"{LINE}@v2", "--remote", str(remote), check=False)
    assert done.returncode == 1
    assert "Error" in done.stderr
    assert not (victim.path / ".sau" / "models" / f"{LINE}@v2").exists()
