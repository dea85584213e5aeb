"""Zeros that compressed-tensors has packed: made plain by that library, and else refused with what helps."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from sau.errors import ModelError
from sau.models.compressed import packed_as, why_not_plain
from sau.models.dense import open_dense
from sau.models.folder import check_takeable, take_folder
from sau.models.language_model import quiet
from sau.models.layers import prunable
from sau.pruners import PruneParams, prune

LAST = ("compressed-tensors==0.14.0.1", "loguru")
"""The last version that reads them, which wants an older transformers than ours: so it comes without what it needs."""


def said(packed, **fields):
    return {"quant_method": "compressed-tensors", "format": "dense", "sparsity_config": {"format": packed}, **fields}


@pytest.fixture
def folder(tiny, tmp_path):
    """A 2:4 model in bfloat16 and several files, and the names of its matrices."""
    lm = tiny()
    prune(lm, [], PruneParams(pruner="magnitude", structure="2:4"))
    with quiet():
        lm.model.to(torch.bfloat16).save_pretrained(tmp_path / "model", max_shard_size="40KB")
        lm.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model", [name for name, _ in prunable(lm.model)]


def says(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (said("dense"), None),
        (
            said("sparse-bitmask"),
            r"sparse-bitmask\), which its versions from 0\.15 on no longer read; pip install --no-deps",
        ),
        (said("sparse-24-bitmask"), r"sparse-24-bitmask\), which its versions from"),
        (said("os.system"), "in a format that is not known"),
        (said("sparse-bitmask", config_groups={"group_0": {"weights": {"num_bits": 4}}}), "are quantised"),
        (said("dense", format="pack-quantized"), "are quantised"),
        (said("dense", sparsity_config="sparse-bitmask"), "in a format that is not known"),
        ({"quant_method": "gptq"}, r"are quantised \(gptq\)"),
        ("gptq", "are quantised"),
    ],
)
def test_what_a_config_says_of_compression_is_refused_by_what_it_is(config, why):
    if importlib.util.find_spec("compressed_tensors") and why and "no longer" in why:
        pytest.skip("the library is here")
    found = why_not_plain({"quantization_config": config})
    assert found is None if why is None else re.search(why, found)
    assert why_not_plain({}) is None
    assert packed_as({}) is None


def test_weights_that_are_plain_lose_the_config_that_calls_them_compressed(folder, tmp_path):
    """A config that says of everything that it is dense."""
    source, _ = folder
    says(source, quantization_config=said("dense"))
    check_takeable(str(source))
    with pytest.raises(ModelError, match="`sau adopt` takes it in"):
        open_dense(source, prompt="plain")
    take_folder(source, tmp_path / "taken")
    opened = open_dense(tmp_path / "taken", prompt="plain").model.state_dict()
    for path in source.glob("*.safetensors"):
        assert all(torch.equal(opened[name], value.float()) for name, value in load_file(path).items())


@pytest.fixture
def library(tmp_path, monkeypatch):
    """The two modules that read packed zeros, for one test alone."""
    lib = tmp_path / "lib"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", lib, *LAST], check=True, timeout=300
    )
    monkeypatch.syspath_prepend(str(lib))
    from compressed_tensors.compressors.sparse_compressors import sparse_24_bitmask, sparse_bitmask

    yield sparse_bitmask.BitmaskTensor, sparse_24_bitmask.Sparse24BitMaskTensor
    for name in [name for name in sys.modules if name.partition(".")[0] == "compressed_tensors"]:
        del sys.modules[name]


@pytest.mark.wheel
@pytest.mark.parametrize("packed", ["sparse-bitmask", "sparse-24-bitmask"])
def test_what_the_library_has_packed_is_taken_in_as_it_was(folder, tmp_path, library, packed):
    """The files are written by the library itself."""
    make = library[packed == "sparse-24-bitmask"]
    source, matrices = folder
    whole, index = {}, {}
    for path in sorted(source.glob("*.safetensors")):
        plain = load_file(path)
        whole |= plain
        state = {}
        for name, value in plain.items():
            matrix = name.removesuffix(".weight")
            state |= make.from_dense(value).dict(matrix) if matrix in matrices else {name: value}
        save_file({name: value.contiguous() for name, value in state.items()}, path, {"format": "pt"})
        index |= dict.fromkeys(state, path.name)
    (source / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    says(source, quantization_config=said(packed))

    check_takeable(str(source))
    take_folder(source, tmp_path / "taken")
    opened = open_dense(tmp_path / "taken", prompt="plain").model.state_dict()
    assert all(torch.equal(opened[name], value.float()) for name, value in whole.items())
    assert len(list((tmp_path / "taken").glob("*.safetensors"))) == len(list(source.glob("*.safetensors"))) > 1

    lost = next(path for path in source.glob("*.safetensors") if any("bitmask" in name for name in load_file(path)))
    state = load_file(lost)
    name = next(name for name in state if name.endswith(".bitmask"))
    save_file(state | {name: state[name][:-1].contiguous()}, lost)
    with pytest.raises(ModelError, match="do not fit together"):
        take_folder(source, tmp_path / "damaged")
