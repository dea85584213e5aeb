"""A model's folder from anywhere: any file of it damaged, any value of its config another, is opened or refused."""

import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import sau
from sau.checkpoint.sparse import open_sparse
from sau.errors import CheckpointError, ModelError
from sau.models.dense import load_hugging_face
from sau.models.folder import check_takeable, take_folder
from sau.models.language_model import quiet
from tests.hostile import altered, damaged, examples, read_or_refused

FILES = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """A small model in a folder, and the sparse checkpoint of it."""
    base = tmp_path_factory.mktemp("whole")
    lm = tiny()
    with quiet():
        lm.model.save_pretrained(base / "dense")
        lm.tokenizer.save_pretrained(base / "dense")
    sau.prune(lm, [], pruner="magnitude")
    sau.save(lm, base / "sparse")
    return base


@pytest.fixture
def folder(whole, tmp_path):
    """Makes a fresh copy."""

    def made(kind="dense"):
        shutil.rmtree(tmp_path / kind, ignore_errors=True)
        return shutil.copytree(whole / kind, tmp_path / kind)

    return made


def adopted(path):
    """As `sau adopt` opens a folder: refused at the door, else taken and opened."""
    check_takeable(str(path))
    taken = path.parent / "taken"
    shutil.rmtree(taken, ignore_errors=True)
    take_folder(path, taken)
    return load_hugging_face(str(taken), "auto")


@pytest.mark.parametrize("name", [*FILES, WEIGHTS])
@examples(8)
@given(data=st.data())
def test_damaged_files_of_a_model(folder, name, data):
    path = folder()
    if not (path / name).exists():
        return
    content = (path / name).read_bytes()
    head, rest = (content, b"") if name != WEIGHTS else (content[:2000], content[2000:])
    (path / name).write_bytes(data.draw(damaged(head)) + rest)
    read_or_refused(lambda: adopted(path), ModelError, may_quote=True)


@pytest.mark.parametrize("name", FILES)
@examples(12)
@given(data=st.data())
def test_files_of_a_model_with_values_of_any_kind(folder, name, data):
    path = folder()
    if not (path / name).exists():
        return
    document = json.loads((path / name).read_text())
    if name == "tokenizer.json":  # its vocabulary aside: most values would be of that
        document["model"]["vocab"], vocab = {}, document["model"]["vocab"]
        document = data.draw(altered(document))
        if isinstance(document.get("model"), dict) and document["model"].get("vocab") == {}:
            document["model"]["vocab"] = vocab
    else:
        document = data.draw(altered(document))
    (path / name).write_text(json.dumps(document))
    read_or_refused(lambda: adopted(path), ModelError, may_quote=True)


def says(path, **fields):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | fields))


@pytest.mark.parametrize("field", ["num_hidden_layers", "hidden_size", "vocab_size", "head_dim"])
def test_sizes_that_the_weights_do_not_have_are_refused_before_they_are_made(folder, field):
    """Or a config of a hundred bytes would fill the memory, or make layers for ever."""
    path = folder()
    for value in (3_000_000, 1 << 62):
        says(path, **{field: value})
        with pytest.raises(ModelError, match=rf"its config says {field} \S+, its weights have \d+ at most\Z"):
            check_takeable(str(path))


@pytest.mark.long
@pytest.mark.parametrize("field", ["num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size", "head_dim"])
@pytest.mark.parametrize("value", [0, -1, 1 << 62, 3_000_000, 1.5, "2", None, [2], True])
def test_odd_sizes(folder, field, value):
    path = folder()
    says(path, **{field: value})
    read_or_refused(lambda: adopted(path), ModelError, may_quote=True)


@pytest.mark.parametrize(
    "index",
    [b"[]", b"{}", b"\xff", b'{"weight_map": []}', b'{"weight_map": {"a": null}}', b'{"weight_map": {"a": "../x"}}',
     b'{"weight_map": {"a": "model.safetensors"}}', b'{"weight_map": {}}', b"[" * 5000],
)  # fmt: skip
def test_odd_indices(folder, index):
    path = folder()
    (path / "model.safetensors.index.json").write_bytes(index)
    read_or_refused(lambda: adopted(path), ModelError, may_quote=True)


@pytest.mark.parametrize(
    "tensor", [torch.zeros(0), torch.zeros(3, 3, 3), torch.tensor(1.0), torch.zeros(2, dtype=torch.bool)]
)
def test_odd_tensors(folder, tensor):
    path = folder()
    state = load_file(path / WEIGHTS)
    for name in (next(iter(state)), "model.another", "\n"):
        save_file(state | {name: tensor}, path / WEIGHTS, metadata={"format": "pt"})
        read_or_refused(lambda: adopted(path), ModelError, may_quote=True)


@examples(25)
@given(data=st.data())
def test_a_sparse_checkpoint_whose_description_was_altered(folder, data):
    path = folder("sparse")
    said = path / "sau.json"
    if data.draw(st.booleans()):
        said.write_bytes(data.draw(damaged(said.read_bytes())))
    else:
        said.write_text(json.dumps(data.draw(altered(json.loads(said.read_text())))))
    read_or_refused(lambda: open_sparse(path), (CheckpointError, ModelError), may_quote=True)
