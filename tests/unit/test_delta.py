"""Deltas: bit-exact, small, refused on another base or mask; archives: the newest whole, never too many hops."""

import json
import shutil

import pytest
import torch

from sau.checkpoint.archive import hops, keep, num_bytes, restore
from sau.checkpoint.delta import PATCH, UnlikeError, apply_delta, is_delta, save_delta
from sau.checkpoint.sparse import WEIGHTS, PackageParams, check_files, open_sparse, read_manifest, save_sparse
from sau.errors import CheckpointError
from sau.mask import apply_mask
from sau.models.layers import prunable
from sau.models.sources import ModelParams, TinyParams, base_model

PARAMS = ModelParams(tiny=TinyParams(vocab_size=400, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2))


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """Five versions of a model, each a small masked step from the one before, float32."""
    return versions(tmp_path_factory.mktemp("line"), PackageParams())


def versions(folder, package, number=5):
    lm = base_model(PARAMS, seed=0)
    torch.manual_seed(1)
    lm.mask = {f"{name}.weight": torch.rand_like(m.weight) > 0.5 for name, m in prunable(lm.model)}
    made = [folder / f"v{n}" for n in range(1, number + 1)]
    for path in made:
        apply_mask(lm.model, lm.mask)
        save_sparse(lm, path, structure="unstructured", package=package)
        with torch.no_grad():
            for name, parameter in lm.model.named_parameters():
                if name in lm.mask:
                    parameter.add_(1e-5 * torch.randn_like(parameter))
    return made


def same_bytes(one, other):
    names = {path.name for path in one.iterdir()}
    return names == {path.name for path in other.iterdir()} and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_delta_gives_back_every_byte(dtype, compression, tmp_path):
    old, new = versions(tmp_path, PackageParams(dtype=dtype, compression=compression), 2)
    delta = save_delta(new, old, tmp_path / "delta")
    assert delta.model_digest == read_manifest(new).digest == read_manifest(tmp_path / "delta").digest
    assert apply_delta(tmp_path / "delta", old, tmp_path / "again").digest == read_manifest(new).digest
    assert same_bytes(tmp_path / "again", new)
    open_sparse(tmp_path / "again")


def test_a_delta_is_smaller_than_the_file_and_far_smaller_where_few_weights_moved(line, tmp_path):
    save_delta(line[1], line[0], tmp_path / "delta")
    assert num_bytes(tmp_path / "delta") < 0.7 * num_bytes(line[1])
    half = versions(tmp_path / "half", PackageParams(dtype="bfloat16", rounding="nearest"), 2)
    save_delta(half[1], half[0], tmp_path / "half" / "delta")
    assert num_bytes(tmp_path / "half" / "delta") < 0.15 * num_bytes(half[1])


def test_files_that_are_the_bases_are_not_stored_again_and_others_are(line, tmp_path):
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


# -- archives ---------------------------------------------------------------------------------------


def archived(line, archive, max_hops):
    for number, version in enumerate(line):
        keep(version, archive, version.name, before=line[number - 1].name if number else None, max_hops=max_hops)
    return [archive / version.name for version in line]


@pytest.mark.parametrize(("max_hops", "expected"), [(0, [0, 0, 0, 0, 0]), (2, [2, 1, 0, 1, 0]), (9, [4, 3, 2, 1, 0])])
def test_the_newest_is_whole_and_no_version_needs_more_hops(line, tmp_path, max_hops, expected):
    kept = archived(line, tmp_path / "archive", max_hops)
    assert [hops(version) for version in kept] == expected
    for version, original in zip(kept, line, strict=True):
        restore(version, tmp_path / version.name)
        assert same_bytes(tmp_path / version.name, original)
    assert [path.name for path in (tmp_path / "archive").iterdir() if path.name.startswith(".")] == []


def test_an_archive_is_smaller_than_its_versions(line, tmp_path):
    kept = archived(line, tmp_path / "archive", 9)
    assert sum(map(num_bytes, kept)) < 0.75 * sum(map(num_bytes, line))


def test_the_oldest_can_be_deleted_and_a_missing_link_is_named(line, tmp_path):
    kept = archived(line, tmp_path / "archive", 9)
    shutil.rmtree(kept[0])
    restore(kept[1], tmp_path / "second")
    assert check_files(tmp_path / "second").digest == read_manifest(line[1]).digest
    shutil.rmtree(kept[3])
    with pytest.raises(CheckpointError, match="delta on model"):
        restore(kept[1], tmp_path / "again")


def test_a_version_with_another_mask_starts_the_chain_anew(line, tmp_path):
    lm = open_sparse(line[1])
    lm.mask = {name: kept.flip(0) for name, kept in lm.mask.items()}
    apply_mask(lm.model, lm.mask)
    save_sparse(lm, tmp_path / "v3", structure="unstructured")
    kept = archived([line[0], line[1], tmp_path / "v3"], tmp_path / "archive", 9)
    assert [is_delta(version) for version in kept] == [True, False, False]


def test_a_name_that_is_taken_is_refused(line, tmp_path):
    archived(line[:1], tmp_path, 9)
    with pytest.raises(CheckpointError, match="not empty"):
        keep(line[1], tmp_path, "v1", before=None, max_hops=9)
