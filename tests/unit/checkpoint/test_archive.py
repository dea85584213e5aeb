"""Archives: the newest whole, and no version more hops away than asked for."""

import shutil

import pytest

from sau.checkpoint.archive import hops, keep, num_bytes, restore
from sau.checkpoint.delta import is_delta
from sau.checkpoint.manifest import check_files, read_manifest
from sau.checkpoint.sparse import open_sparse, save_sparse
from sau.errors import CheckpointError
from sau.mask import apply_mask


def archived(line, archive, max_hops):
    for number, version in enumerate(line):
        keep(version, archive, version.name, before=line[number - 1].name if number else None, max_hops=max_hops)
    return [archive / version.name for version in line]


@pytest.mark.parametrize(("max_hops", "expected"), [(0, [0, 0, 0, 0, 0]), (2, [2, 1, 0, 1, 0]), (9, [4, 3, 2, 1, 0])])
def test_the_newest_is_whole_and_no_version_needs_more_hops(same_bytes, line, tmp_path, max_hops, expected):
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
    assert check_files(tmp_path / "second").manifest_digest == read_manifest(line[1]).manifest_digest
    shutil.rmtree(kept[3])
    with pytest.raises(CheckpointError, match="delta on model"):
        restore(kept[1], tmp_path / "again")


def test_what_is_no_checkpoint_may_lie_beside_a_version(line, tmp_path):
    kept = archived(line[:2], tmp_path / "archive", 9)
    (tmp_path / "archive" / "served").mkdir()
    (tmp_path / "archive" / "served" / "sau.json").write_text('{"format": "dense"}')
    restore(kept[0], tmp_path / "first")
    with pytest.raises(CheckpointError, match=r"archive/nothing/sau\.json: no manifest"):
        restore(tmp_path / "archive" / "nothing", tmp_path / "second")
    assert not (tmp_path / "second").exists()


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
