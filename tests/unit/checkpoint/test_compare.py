"""Which of weights, mask and side files differ, and by how much; and what each digest stands for."""

import json

import pytest
import torch

from sau.checkpoint.compare import Difference, compare
from sau.checkpoint.digests import dense_digest, folder_digest
from sau.checkpoint.export import export
from sau.checkpoint.manifest import check_files, read_manifest, stored_tensors
from sau.checkpoint.sparse import PackageParams, open_sparse, save_sparse
from sau.errors import CheckpointError, ModelError
from sau.mask import apply_mask


@pytest.fixture
def saved(masked, tmp_path):
    """Saves the model, changed by a function, and returns the folder."""

    def save(name, change=lambda lm: None, **package):
        lm = masked()
        change(lm)
        save_sparse(lm, tmp_path / name, structure="unstructured", package=PackageParams(**package))
        return tmp_path / name

    return save


def move_one_weight(lm):
    name, kept = next(iter(lm.mask.items()))
    row, column = kept.nonzero()[0].tolist()
    with torch.no_grad():
        lm.model.get_parameter(name)[row, column] += 0.25


def other_mask(lm):
    lm.mask = {name: kept.flip(0) for name, kept in lm.mask.items()}
    apply_mask(lm.model, lm.mask)


def other_prompt(lm):
    lm.prompt = "Q: {question}"


def test_the_same_model_differs_in_nothing(saved):
    assert compare(saved("a"), saved("b")) == Difference(False, False, False)


def test_one_moved_weight_is_counted_and_measured(saved):
    one, other = saved("a"), saved("b", move_one_weight)
    found = compare(one, other)
    assert (found.weights, found.mask, found.side_files) == (True, False, False)
    total = sum(len(w) for w in _numbers(one))
    assert found.share_of_weights == pytest.approx(1 / total)
    assert found.largest == pytest.approx(0.25, rel=1e-5)


def _numbers(folder):
    tensors = stored_tensors(folder, read_manifest(folder))
    return [tensor.view(-1) for name, tensor in tensors.items() if not name.endswith(".mask")]


def test_another_mask_has_no_weight_beside_another(saved):
    found = compare(saved("a"), saved("b", other_mask))
    assert (found.weights, found.mask, found.share_of_weights, found.largest) == (True, True, None, None)


def test_another_prompt_is_beside_the_weights(saved):
    one, other = saved("a"), saved("b", other_prompt)
    assert compare(one, other) == Difference(False, False, True)
    assert read_manifest(one).weights_digest == read_manifest(other).weights_digest
    assert read_manifest(one).side_digest != read_manifest(other).side_digest


def test_compression_changes_the_bytes_and_not_the_weights(saved):
    plain, small = (read_manifest(saved(how, compression=how)) for how in ("none", "zstd"))
    assert plain.weights_digest == small.weights_digest
    assert plain.side_digest == small.side_digest
    assert plain.manifest_digest != small.manifest_digest


@pytest.mark.parametrize("field", ["weights_digest", "side_digest"])
def test_a_manifest_whose_digest_is_not_that_of_its_files_is_refused(saved, field):
    folder = saved("a")
    manifest = json.loads((folder / "sau.json").read_text())
    (folder / "sau.json").write_text(json.dumps(manifest | {field: "0" * 64}))
    with pytest.raises(CheckpointError, match=r"not those of the manifest|side digest"):
        open_sparse(folder)


def test_a_checkpoint_of_format_1_is_read_and_has_the_same_weights_digest(saved):
    """It had one digest, that of its manifest."""
    folder = saved("a")
    wanted = read_manifest(folder)
    manifest = json.loads((folder / "sau.json").read_text())
    old = {key: value for key, value in manifest.items() if key not in ("weights_digest", "side_digest")}
    (folder / "sau.json").write_text(json.dumps(old | {"format_version": 1}))
    found = check_files(folder)
    assert (found.weights_digest, found.side_digest) == (wanted.weights_digest, wanted.side_digest)


def test_a_dense_folders_digest_is_of_its_weights(saved, tmp_path):
    checkpoint = saved("a")
    for name in ("one", "two"):
        export(checkpoint, tmp_path / name)
    (tmp_path / "two" / "README.md").write_text("a note")
    assert dense_digest(tmp_path / "one") == dense_digest(tmp_path / "two")
    assert folder_digest(tmp_path / "one") != folder_digest(tmp_path / "two")
    export(saved("b", move_one_weight), tmp_path / "three")
    assert dense_digest(tmp_path / "one") != dense_digest(tmp_path / "three")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no safetensors file"):
        dense_digest(tmp_path / "empty")
