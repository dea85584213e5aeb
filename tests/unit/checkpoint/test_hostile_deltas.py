"""A delta from anywhere: whatever is damaged in it, it is applied whole, or refused and leaves nothing."""

import hashlib
import json
import os
import shutil

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sau.checkpoint.archive import restore
from sau.checkpoint.delta import DELTA, PATCH, apply_delta, save_delta
from sau.checkpoint.digests import file_sha256, side_digest
from sau.checkpoint.manifest import PACKED, WEIGHTS, beside_weights, check_files
from sau.checkpoint.sparse import PackageParams, open_sparse
from sau.errors import CheckpointError, ModelError
from sau.models.folder import SIDECAR
from tests.hostile import JSON, altered, damaged, examples, read_or_refused

ODD_NAMES = [
    "..",
    ".",
    "",
    "/etc/passwd",
    "../x",
    "a/b",
    "a\0b",
    "\ud800",
    "x" * 300,
    "a\nb",
    "\x1b[31m",
    DELTA,
    SIDECAR,
]


@pytest.fixture(scope="module")
def whole(line, tmp_path_factory):
    """The delta from one version to the next."""
    folder = tmp_path_factory.mktemp("handed")
    save_delta(line[1], line[0], folder / "delta")
    return folder / "delta"


@pytest.fixture
def given_to(whole, line, tmp_path):
    """A fresh copy beside its base, as in an archive."""

    def made():
        shutil.rmtree(tmp_path / "archive", ignore_errors=True)
        shutil.copytree(line[0], tmp_path / "archive" / "v1")
        return shutil.copytree(whole, tmp_path / "archive" / "v2")

    return made


def applied(folder):
    """By the base that is named, and as an archive's; nothing is left of what was refused."""
    base, out = folder.parent / "v1", folder.parent.parent / "out"
    for how in (lambda: apply_delta(folder, base, out), lambda: restore(folder, out)):
        shutil.rmtree(out, ignore_errors=True)
        if read_or_refused(how, CheckpointError, may_quote=True):
            check_files(out)
        else:
            assert not out.exists()
        assert not list(out.parent.glob(".out-*"))
        check_files(base)


@pytest.mark.parametrize("name", [DELTA, SIDECAR, PATCH])
@examples(15)
@given(data=st.data())
def test_damaged_files_of_a_delta(given_to, name, data):
    folder = given_to()
    (folder / name).write_bytes(data.draw(damaged((folder / name).read_bytes())))
    applied(folder)


@pytest.mark.parametrize("name", [DELTA, SIDECAR])
@examples(20)
@given(data=st.data())
def test_descriptions_with_values_of_any_kind(given_to, name, data):
    folder = given_to()
    said = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(data.draw(st.one_of(JSON, altered(said)))))
    applied(folder)


def agree(folder, told):
    """Make digests say what a description says."""
    told["side_digest"] = side_digest(told["prompt"], beside_weights(told["files"]))
    (folder / SIDECAR).write_text(json.dumps(told))
    if (folder / DELTA).is_file():
        delta = json.loads((folder / DELTA).read_text())
        delta["model_digest"] = hashlib.sha256((folder / SIDECAR).read_bytes()).hexdigest()
        (folder / DELTA).write_text(json.dumps(delta))


@pytest.mark.parametrize("name", ODD_NAMES)
def test_files_are_named_and_never_by_a_path(given_to, name):
    """Whoever wrote the delta has written its digests too: they agree with whatever it names."""
    folder = given_to()
    told = json.loads((folder / SIDECAR).read_text())
    told["files"][name] = "0" * 64
    agree(folder, told)
    applied(folder)


# -- what fills the memory ---------------------------------------------------------------------------------


@pytest.fixture
def packed(versions, tmp_path):
    """A checkpoint whose weights are packed."""
    return versions(tmp_path, PackageParams(compression="zstd"), number=1)[0]


def changed(folder, **fields):
    """A checkpoint that says something else, its digests in agreement with that."""
    told = json.loads((folder / SIDECAR).read_text()) | fields
    told["files"] = {path.name: file_sha256(path) for path in folder.iterdir() if path.name != SIDECAR}
    agree(folder, told)


def test_weights_that_unpack_to_far_more_than_weights_do_are_refused(packed, monkeypatch):
    monkeypatch.setattr("sau.checkpoint.manifest._ALWAYS", 1 << 20)
    open_sparse(packed)
    (packed / PACKED).write_bytes(zstandard.compress(bytes(64 << 20)))
    for version in (1, 2):
        changed(packed, format_version=version)
        with pytest.raises(CheckpointError, match="not readable"):
            open_sparse(packed)


@pytest.mark.parametrize("shape", [[1 << 40], [1 << 62, 4], [1 << 20, 1 << 20], [0], [3], []])
def test_a_mask_has_the_shape_of_its_bits(line, tmp_path, shape):
    folder = shutil.copytree(line[0], tmp_path / "v1")
    told = json.loads((folder / SIDECAR).read_text())["shapes"]
    changed(folder, shapes=told | {next(iter(told)): shape})
    with pytest.raises(CheckpointError, match="not readable"):
        open_sparse(folder)


@pytest.mark.parametrize("field", ["num_hidden_layers", "hidden_size", "vocab_size"])
def test_a_config_of_more_than_there_are_weights_is_refused_before_it_is_made(line, tmp_path, field):
    folder = shutil.copytree(line[0], tmp_path / "v1")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: 3_000_000}))
    changed(folder)
    with pytest.raises(CheckpointError, match=rf"its config says {field} 3e\+06"):
        open_sparse(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@examples(4)
@given(data=st.data())
def test_files_beside_the_weights_that_agree_with_their_digests(line, tmp_path_factory, name, data):
    folder = shutil.copytree(line[0], tmp_path_factory.mktemp("beside") / "v1")
    (folder / name).write_bytes(data.draw(damaged((folder / name).read_bytes()[:3000])))
    changed(folder)
    read_or_refused(lambda: open_sparse(folder), (CheckpointError, ModelError), may_quote=True)


def test_what_has_no_end_is_no_file_of_a_checkpoint(line, tmp_path):
    folder = shutil.copytree(line[0], tmp_path / "v1")
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (folder / WEIGHTS).unlink()
        make(folder / WEIGHTS)
        with pytest.raises(CheckpointError, match=r"no file|no manifest"):
            open_sparse(folder)
    (folder / SIDECAR).unlink()
    (folder / SIDECAR).symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="no manifest"):
        open_sparse(folder)
