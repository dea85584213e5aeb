"""A checkpoint in several files: the digests of one, read by any number, refused where a file is not as it was."""

import copy
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from sau.checkpoint.compare import Difference, compare
from sau.checkpoint.delta import save_delta
from sau.checkpoint.digests import dense_digest, file_sha256
from sau.checkpoint.export import export
from sau.checkpoint.manifest import check_files, is_sparse, read_manifest, stored_tensors
from sau.checkpoint.sparse import PackageParams, open_sparse, save_sparse
from sau.errors import CheckpointError, SparsityError
from sau.mask import apply_mask
from sau.models.layers import prunable
from sau.models.ranks import ranks_of
from tests.together import several

TWO = ["sparse-00001-of-00002.safetensors", "sparse-00002-of-00002.safetensors"]


@pytest.fixture(scope="module")
def lm(tiny, tmp_path_factory):
    """Rows that neither two nor three divide, one row alone, and a head that is the embedding."""
    lm = tiny(vocab_size=401)
    config = copy.deepcopy(lm.model.config)
    config.intermediate_size, config.num_key_value_heads, config.tie_word_embeddings = 65, 1, True
    torch.manual_seed(1)
    lm.model = LlamaForCausalLM(config).eval()
    lm.mask = {f"{name}.weight": torch.rand_like(m.weight) > 0.5 for name, m in prunable(lm.model)}
    apply_mask(lm.model, lm.mask)
    folder = tmp_path_factory.mktemp("start")
    save_sparse(lm, folder, structure="unstructured")
    return open_sparse(folder)  # its config says what transformers adds to one that is read


def saved_by(processes: int, lm, folder: Path, ends=()):
    """What each of so many processes is told of the checkpoint that they have stored together."""

    def save(ranks):
        return save_sparse(ranks.divide(lm), folder / "checkpoint", structure="unstructured")

    return several(processes, save, folder, ends=ends)


@pytest.fixture(scope="module")
def made(lm, tmp_path_factory):
    """The same model stored by one, two and three processes."""
    folders = {1: tmp_path_factory.mktemp("one")}
    save_sparse(lm, folders[1] / "checkpoint", structure="unstructured")
    for processes in (2, 3):
        folders[processes] = tmp_path_factory.mktemp(str(processes))
        told = saved_by(processes, lm, folders[processes])
        assert told == [read_manifest(folders[processes] / "checkpoint")] * processes
    return {processes: folder / "checkpoint" for processes, folder in folders.items()}


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made[2], tmp_path / "checkpoint")


@pytest.mark.parametrize("processes", [2, 3])
def test_it_is_what_one_process_stores_but_for_its_files(made, processes):
    one, several = (check_files(made[number]) for number in (1, processes))
    differ = {"manifest_digest", "files", "num_bytes"}
    assert {k: v for k, v in vars(one).items() if k not in differ} == {
        k: v for k, v in vars(several).items() if k not in differ
    }
    assert len(several.shards) == processes
    assert (made[processes] / several.shards[0]).stat().st_size < 0.7 * one.num_bytes
    assert compare(made[1], made[processes]) == Difference(weights=False, mask=False, side_files=False)
    alone, together = stored_tensors(made[1], one), stored_tensors(made[processes], several)
    assert alone.keys() == together.keys()
    assert all(torch.equal(value, together[name]) for name, value in alone.items())


def test_one_process_opens_what_two_have_stored_and_packages_it_as_its_own(lm, made, tmp_path):
    again = open_sparse(made[2])
    weights = again.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in lm.model.state_dict().items())
    assert all(torch.equal(kept, again.mask[name]) for name, kept in lm.mask.items())
    packaged = save_sparse(again, tmp_path / "packaged", structure="unstructured")
    assert packaged == read_manifest(made[1])
    for number in (1, 2):
        export(made[number], tmp_path / f"dense-{number}")
    assert dense_digest(tmp_path / "dense-1") == dense_digest(tmp_path / "dense-2")


def test_three_go_on_with_what_two_have_stored(made, tmp_path):
    def again(ranks):
        lm = ranks.divide(open_sparse(made[2]))
        return save_sparse(lm, tmp_path / "again", structure="unstructured")

    assert several(3, again, tmp_path / "forks")[0] == read_manifest(made[3])
    assert file_sha256(tmp_path / "again" / "sau.json") == file_sha256(made[3] / "sau.json"), "the same bytes again"


@pytest.mark.parametrize("name", TWO)
@pytest.mark.parametrize("damage", ["missing", "cut", "changed", "swapped"])
def test_a_file_that_is_not_as_it_was_is_named(folder, name, damage):
    path = folder / name
    raw = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        of_other = (folder / TWO[1 - TWO.index(name)]).read_bytes()
        path.write_bytes({"cut": raw[:-1], "changed": raw[:-1] + bytes([raw[-1] ^ 1]), "swapped": of_other}[damage])
    with pytest.raises(CheckpointError, match=name) as refused:
        open_sparse(folder)
    assert "\n" not in str(refused.value)


def rewrite(folder, **changes):
    """Change the manifest as somebody who edits it would."""
    manifest = json.loads((folder / "sau.json").read_text())
    (folder / "sau.json").write_text(json.dumps(manifest | changes))
    return manifest


def test_a_manifest_that_names_one_of_two_files_is_refused(folder):
    files = rewrite(folder)["files"]
    (folder / TWO[0]).unlink()
    rewrite(folder, files={name: digest for name, digest in files.items() if name != TWO[0]})
    with pytest.raises(CheckpointError, match="names some of its weights files only"):
        open_sparse(folder)


@pytest.mark.parametrize("change", ["fewer files", "other rows", "no matrix", "more rows"])
def test_rows_that_are_not_those_of_the_files_are_refused(folder, change):
    rows = rewrite(folder)["rows"]
    matrix = next(name for name in rows if name.endswith("gate_proj.weight"))
    norm = "model.norm.weight"
    if change == "no matrix":
        del rows[matrix]
    else:
        rows |= {"fewer files": {norm: rows[norm][:1]}, "other rows": {norm: rows[norm][::-1]}}.get(
            change, {matrix: [10**9, 10**9]}
        )
        rows |= {norm: [1, 31]} if change == "other rows" else {}
    rewrite(folder, rows=rows)
    with pytest.raises(CheckpointError):
        open_sparse(folder)


def test_what_several_store_is_float32_and_no_delta_is_made_of_it(lm, made, tmp_path):
    def refused(ranks):
        with pytest.raises(CheckpointError, match="package it on one"):
            save_sparse(
                ranks.divide(lm), tmp_path / "c", structure="unstructured", package=PackageParams(dtype="bfloat16")
            )
        return True

    assert several(2, refused, tmp_path / "forks") == [True, True]
    with pytest.raises(CheckpointError, match="its weights are in 2 files, package it first"):
        save_delta(made[2], made[1], tmp_path / "delta")


def test_a_pruned_weight_that_is_not_zero_is_refused_by_whoever_has_it(lm, tmp_path):
    def moved(ranks):
        divided = ranks.divide(lm)
        name, kept = next(iter(divided.mask.items()))
        if ranks.rank:
            row, column = (~kept).nonzero()[0].tolist()
            ranks_of(divided.model).own(divided.model)[name].data[row, column] = 1e-30
        try:
            save_sparse(divided, tmp_path / "c", structure="unstructured")
        except SparsityError as error:
            (tmp_path / f"{ranks.rank}.txt").write_text(str(error))
            raise

    several(2, moved, tmp_path / "forks", ends=(1, 1))
    assert "1 pruned weights are not +0.0" in (tmp_path / "1.txt").read_text()
    assert not (tmp_path / "0.txt").exists()
    with pytest.raises(CheckpointError, match="no manifest"):
        read_manifest(tmp_path / "c")


def test_killed_before_the_manifest_there_is_no_checkpoint(lm, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "replace", lambda *names: os._exit(9))
    assert saved_by(2, lm, tmp_path, ends=(9, 1)) == []
    assert is_sparse(tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match="no manifest of a sparse checkpoint"):
        open_sparse(tmp_path / "checkpoint")
