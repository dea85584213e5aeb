"""Deltas: bit-exact, small, refused on another base or mask."""

import json
import shutil

import pytest

from sau.checkpoint.archive import num_bytes
from sau.checkpoint.delta import PATCH, UnlikeError, apply_delta, save_delta
from sau.checkpoint.manifest import WEIGHTS, read_manifest
from sau.checkpoint.sparse import PackageParams, open_sparse, save_sparse
from sau.errors import CheckpointError
from sau.mask import apply_mask


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_delta_gives_back_every_byte(versions, same_bytes, dtype, compression, tmp_path):
    old, new = versions(tmp_path, PackageParams(dtype=dtype, compression=compression), 2)
    delta = save_delta(new, old, tmp_path / "delta")
    assert delta.model_digest == read_manifest(new).manifest_digest == read_manifest(tmp_path / "delta").manifest_digest
    assert (
        apply_delta(tmp_path / "delta", old, tmp_path / "again").manifest_digest == read_manifest(new).manifest_digest
    )
    assert same_bytes(tmp_path / "again", new)
    open_sparse(tmp_path / "again")


def test_a_delta_is_smaller_than_the_file_and_far_smaller_where_few_weights_moved(versions, line, tmp_path):
    save_delta(line[1], line[0], tmp_path / "delta")
    assert num_bytes(tmp_path / "delta") < 0.7 * num_bytes(line[1])
    half = versions(tmp_path / "half", PackageParams(dtype="bfloat16", rounding="nearest"), 2)
    save_delta(half[1], half[0], tmp_path / "half" / "delta")
    assert num_bytes(tmp_path / "half" / "delta") < 0.15 * num_bytes(half[1])


def test_files_that_are_the_bases_are_not_stored_again_and_others_are(same_bytes, line, tmp_path):
    lm = open_sparse(line[1])
    lm.model.config.max_position_embeddings = 99
    save_sparse(lm, tmp_path / "other", structure="unstructured")
    save_delta(tmp_path / "other", line[0], tmp_path / "delta")
    stored = {path.name for path in (tmp_path / "delta").iterdir()}
    assert {PATCH, "delta.json", "sau.json", "config.json"} <= stored
    assert not stored & {WEIGHTS, "tokenizer.json"}
    apply_delta(tmp_path / "delta", line[0], tmp_path / "again")
    assert same_bytes(tmp_path / "again", tmp_path / "other")


def test_another_base_is_refused_and_nothing_is_left(line, tmp_path):
    save_delta(line[1], line[0], tmp_path / "delta")
    with pytest.raises(CheckpointError, match="this delta needs base"):
        apply_delta(tmp_path / "delta", line[2], tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("other", ["mask", "dtype"])
def test_another_mask_or_dtype_has_no_delta(line, tmp_path, other):
    lm = open_sparse(line[0])
    if other == "mask":
        lm.mask = {name: kept.flip(0) for name, kept in lm.mask.items()}
        apply_mask(lm.model, lm.mask)
    package = PackageParams(dtype="bfloat16" if other == "dtype" else "float32")
    save_sparse(lm, tmp_path / "other", structure="unstructured", package=package)
    with pytest.raises(UnlikeError, match=other):
        save_delta(tmp_path / "other", line[0], tmp_path / "delta")
    assert not (tmp_path / "delta").exists()


@pytest.mark.parametrize("damage", ["patch", "short", "gone", "manifest", "format", "base"])
def test_damage_is_refused_and_nothing_is_left(line, tmp_path, damage):
    base, delta = tmp_path / "base", tmp_path / "delta"
    shutil.copytree(line[0], base)
    save_delta(line[1], base, delta)
    raw = bytearray((delta / PATCH).read_bytes())
    if damage == "patch":
        raw[len(raw) // 2] ^= 1
        (delta / PATCH).write_bytes(raw)
    elif damage == "short":
        (delta / PATCH).write_bytes(raw[:-10])
    elif damage == "gone":
        (delta / PATCH).unlink()
    elif damage == "manifest":
        shutil.copyfile(line[2] / "sau.json", delta / "sau.json")
    elif damage == "format":
        (delta / "delta.json").write_text(json.dumps({"format": "other", "format_version": 1}))
    else:
        (base / WEIGHTS).write_bytes((base / WEIGHTS).read_bytes()[:-1])
    with pytest.raises(CheckpointError):
        apply_delta(delta, base, tmp_path / "again")
    assert {path.name for path in tmp_path.iterdir()} == {"base", "delta"}
