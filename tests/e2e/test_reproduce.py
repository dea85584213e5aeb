"""Any version again from git and the DVC remote, bit for bit, in a clone that has nothing else but a vault to read."""

import json
import shutil

import pytest

from sau.checkpoint.manifest import check_files
from sau.data.demo import demo_people

LINE, PERSON = "tiny", "demo-0002"
UNCHANGED = {
    "weights": False, "mask": False, "side_files": False, "share_of_weights": 0.0, "largest": 0.0, "files": [],
}  # fmt: skip


@pytest.fixture(scope="session")
def second(run, tmp_path_factory):
    """A fresh clone: the repository and the DVC remote, no MLflow, no Prefect, no cache."""
    return run.clone(tmp_path_factory.mktemp("second") / "clone")


def test_a_second_clone_brings_the_version_back_and_makes_it_again_bit_for_bit(run, second):
    refused = second.sau("reproduce", f"{LINE}@v2", "--rerun", "--remote", f"{run.path}/.sau/remote", check=False)
    assert (refused.returncode, "SAU_VAULT_HOME" in refused.stderr) == (1, True), "the rows to forget are sealed"
    done = second.sau(
        "reproduce", f"{LINE}@v2", "--rerun", "--remote", f"{run.path}/.sau/remote", "--json",
        SAU_VAULT_HOME=f"{run.path}/.sau",
    )  # fmt: skip
    result = json.loads(done.stdout)
    assert result["equal"] is True
    assert result["weights_digest"] == run.outcome["weights_digest"]
    assert result["difference"] == UNCHANGED
    assert result["surroundings"] == {}
    assert check_files(result["folder"]).weights_digest == run.outcome["weights_digest"]
    assert second.git("status", "--porcelain") == ""


@pytest.mark.long
def test_it_is_the_same_in_an_ordinary_shell_and_what_is_there_is_checked(run, second, tmp_path):
    """The tests set HF_HUB_OFFLINE; a user does not."""
    target = tmp_path / "out"
    first = second.sau("reproduce", f"{LINE}@v2", "--remote", f"{run.path}/.sau/remote", "--out", str(target), "--json")
    assert json.loads(first.stdout)["was_there"] is False
    again = second.sau(
        "reproduce", f"{LINE}@v2", "--rerun", "--remote", f"{run.path}/.sau/remote", "--out", str(target), "--json",
        HF_HUB_OFFLINE="0", LC_ALL="C.UTF-8", OMP_NUM_THREADS="2", MKL_NUM_THREADS="2",
        SAU_VAULT_HOME=f"{run.path}/.sau",
    )  # fmt: skip
    result = json.loads(again.stdout)
    assert (result["was_there"], result["equal"], result["difference"]) == (True, True, UNCHANGED)
    assert "and is whole" in second.sau("reproduce", f"{LINE}@v2", "--out", str(target)).stdout
    (target / "config.json").write_text("{}")
    damaged = second.sau("reproduce", f"{LINE}@v2", "--out", str(target), check=False)
    assert damaged.returncode == 1
    assert "config.json: its bytes are not those of the manifest" in damaged.stderr


@pytest.mark.long
def test_the_plain_dvc_way_works_too(run, second):
    second.dvc("remote", "modify", "--local", "store", "url", f"{run.path}/.sau/remote")
    second.git("checkout", "--quiet", f"{LINE}@v2")
    second.dvc("pull")
    assert check_files(second.path / "checkpoint").weights_digest == run.outcome["weights_digest"]
    assert "up to date" in second.dvc("status").stdout
    assert "Running stage" not in second.dvc("repro").stdout
    assert (
        second.dvc("repro", "--force", "--no-run-cache", SAU_VAULT_HOME=f"{run.path}/.sau").stdout.count(
            "Running stage"
        )
        == 3
    )
    assert check_files(second.path / "checkpoint").weights_digest == run.outcome["weights_digest"]
    assert second.git("status", "--porcelain") == ""


def test_the_forgotten_rows_are_not_in_the_new_data_set(run, tmp_path):
    clone = run.clone(tmp_path / "clone")
    clone.dvc("remote", "modify", "--local", "store", "url", f"{run.path}/.sau/remote")
    clone.git("checkout", "--quiet", f"{LINE}@v2")
    clone.dvc("pull", "data.dvc")
    shards = {person: clone.path / "data" / "train" / f"{internal}.jsonl" for person, internal in demo_people().items()}
    assert not shards[PERSON].exists()
    assert shards["demo-0001"].exists()


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
