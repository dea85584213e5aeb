"""Folders and files, verified like models, and not if they change meanwhile."""

import shutil

import pytest

from sau.data.sets import SETS
from sau.errors import CheckpointError, ModelError
from sau.verify import load_policy
from sau.verify.standalone import verify_paths


def test_folders_and_files_are_verified_like_models(verified, timeless, folder, retrained, before, reference):
    paths = [folder / name for name in ("model", *SETS, "before", "reference")]
    result = verify_paths(*paths, policy="quick", null="retrained")
    assert result.verdict == "PASS", result.reasons
    assert len(result.weights_digest) == 64
    assert (
        timeless(result).checks
        == timeless(verified(retrained, before, reference, load_policy("quick", null="retrained"))).checks
    )


def test_two_controls_with_the_same_weights_are_refused(folder):
    paths = [folder / name for name in ("model", *SETS, "before", "before")]
    with pytest.raises(ModelError, match="before and reference have the same weights"):
        verify_paths(*paths, policy="quick")


def test_a_model_swapped_meanwhile_has_no_verdict(tmp_path, folder):
    own = shutil.copytree(folder, tmp_path / "own")

    def meddle(message):
        if message == "judging":
            (own / "model" / "config.json").open("a").write(" ")

    with pytest.raises(CheckpointError, match="changed while"):
        verify_paths(*(own / name for name in ("model", *SETS)), policy="quick", progress=meddle)
