"""The sparse checkpoint: bit-exact, self-describing, small, and refused when anything about it is off."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from sau.checkpoint.digests import file_sha256
from sau.checkpoint.export import export
from sau.checkpoint.manifest import PACKED, WEIGHTS, check_files, read_manifest
from sau.checkpoint.sparse import PackageParams, open_model, open_sparse, save_sparse
from sau.errors import CheckpointError, ModelError, SparsityError
from sau.mask import apply_mask
from sau.models.layers import prunable
from sau.models.sources import ModelParams, base_model


@pytest.fixture
def lm(masked):
    return masked()


@pytest.fixture
def folder(lm, tmp_path):
    save_sparse(lm, tmp_path / "checkpoint", structure="unstructured")
    return tmp_path / "checkpoint"


def bits(model):
    return {name: value.view(torch.int32) for name, value in model.state_dict().items()}


def rewrite_manifest(folder, **changes):
    """Change the weights file or the manifest and make the digests agree again: what an editor of both would do."""
    manifest = json.loads((folder / "sau.json").read_text())
    manifest["files"] = {name: file_sha256(folder / name) for name in manifest["files"]}
    (folder / "sau.json").write_text(json.dumps(manifest | changes))


def test_weights_and_mask_come_back_bit_for_bit(lm, folder):
    again = open_sparse(folder)
    assert all(torch.equal(a, b) for a, b in zip(bits(lm.model).values(), bits(again.model).values(), strict=True))
    assert again.mask.keys() == lm.mask.keys()
    assert all(torch.equal(again.mask[name], lm.mask[name]) for name in lm.mask)


def test_a_survivor_that_is_zero_stays_a_survivor(lm, tmp_path):
    name = next(iter(lm.mask))
    row, column = lm.mask[name].nonzero()[0].tolist()
    dict(lm.model.named_parameters())[name].data[row, column] = 0.0
    save_sparse(lm, tmp_path / "c", structure="unstructured")
    assert bool(open_sparse(tmp_path / "c").mask[name][row, column])


def test_the_same_model_gives_the_same_digest(lm, folder, tmp_path):
    assert (
        save_sparse(lm, tmp_path / "again", structure="unstructured").manifest_digest
        == read_manifest(folder).manifest_digest
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", ["tiny", "smollm2"])
def test_its_size_is_survivors_and_a_bit_per_weight(shape, dtype, tmp_path):
    lm = base_model(ModelParams(), seed=0)
    if shape == "smollm2":  # its layers, fewer of them, and its vocabulary cut: what is left out is the same again
        config = LlamaConfig(
            vocab_size=1024, hidden_size=576, intermediate_size=1536, num_hidden_layers=3, num_attention_heads=9,
            num_key_value_heads=3, tie_word_embeddings=True,
        )  # fmt: skip
        lm.model = LlamaForCausalLM(config)
    lm.mask = {f"{name}.weight": torch.rand_like(m.weight) > 0.5 for name, m in prunable(lm.model)}
    apply_mask(lm.model, lm.mask)
    manifest = save_sparse(lm, tmp_path / "c", structure="unstructured", package=PackageParams(dtype=dtype))
    others = sum(v.numel() for n, v in lm.model.state_dict().items() if n not in lm.mask and n != "lm_head.weight")
    ideal = manifest.itemsize * (manifest.num_nonzeros + others) + manifest.num_weights / 8
    assert manifest.num_bytes == (tmp_path / "c" / WEIGHTS).stat().st_size
    assert manifest.num_bytes <= 1.02 * ideal
    assert manifest.num_bytes < 0.75 * manifest.dense_bytes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compressed_it_is_smaller_and_opens_bit_for_bit(lm, tmp_path, dtype):
    plain, small = (
        save_sparse(lm, tmp_path / how, structure="unstructured", package=PackageParams(dtype=dtype, compression=how))
        for how in ("none", "zstd")
    )
    assert small.num_bytes < 0.95 * plain.num_bytes
    assert not (tmp_path / "zstd" / WEIGHTS).exists()
    first, second = (open_sparse(tmp_path / how) for how in ("none", "zstd"))
    assert all(torch.equal(a, b) for a, b in zip(bits(first.model).values(), bits(second.model).values(), strict=True))
    assert plain.mask_digest == small.mask_digest


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"no zstd frame", lambda raw: b""])
def test_a_damaged_compressed_file_is_refused_even_with_matching_digests(lm, tmp_path, damage):
    folder = tmp_path / "c"
    save_sparse(lm, folder, structure="unstructured", package=PackageParams(compression="zstd"))
    (folder / PACKED).write_bytes(damage((folder / PACKED).read_bytes()))
    rewrite_manifest(folder)
    with pytest.raises(CheckpointError, match="not readable"):
        open_sparse(folder)


def test_a_manifest_that_names_files_elsewhere_is_refused(folder):
    manifest = json.loads((folder / "sau.json").read_text())
    (folder / "sau.json").write_text(json.dumps(manifest | {"files": {"../outside": "0" * 64}}))
    with pytest.raises(CheckpointError, match="no file name"):
        check_files(folder)


def test_an_export_in_bfloat16_is_what_stock_tools_open_and_has_the_shipped_numbers(lm, folder, tmp_path):
    export(folder, tmp_path / "dense", dtype="bfloat16")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "dense")
    assert stock.dtype == torch.bfloat16
    save_sparse(lm, tmp_path / "b", structure="unstructured", package=PackageParams(dtype="bfloat16"))
    shipped = open_sparse(tmp_path / "b").model.state_dict()
    assert all(torch.equal(value.float(), shipped[name]) for name, value in stock.state_dict().items())


@pytest.mark.parametrize("value", [1e-30, -0.0])
def test_a_pruned_weight_that_is_not_plus_zero_is_not_stored(lm, tmp_path, value):
    name, kept = next(iter(lm.mask.items()))
    row, column = (~kept).nonzero()[0].tolist()
    dict(lm.model.named_parameters())[name].data[row, column] = value
    with pytest.raises(SparsityError, match=r"1 pruned weights are not \+0.0"):
        save_sparse(lm, tmp_path / "c", structure="unstructured")


def test_a_changed_byte_is_refused(folder):
    raw = bytearray((folder / WEIGHTS).read_bytes())
    raw[-1] ^= 1
    (folder / WEIGHTS).write_bytes(raw)
    with pytest.raises(CheckpointError, match="not those of the manifest"):
        open_sparse(folder)


@pytest.mark.parametrize("damage", ["truncate", "remove", "extra"])
def test_a_damaged_folder_is_refused(folder, damage):
    if damage == "truncate":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000])
        rewrite_manifest(folder)
    elif damage == "remove":
        (folder / "config.json").unlink()
    else:
        (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError):
        open_sparse(folder)


@pytest.mark.parametrize("change", ["drop", "add", "mask"])
def test_missing_unexpected_or_swapped_tensors_are_refused_even_with_matching_digests(folder, change):
    tensors = load_file(folder / WEIGHTS)
    if change == "drop":
        del tensors["model.norm.weight"]
    elif change == "add":
        tensors["model.extra.weight"] = torch.zeros(3)
    else:
        name = next(n for n in tensors if n.endswith(".mask"))
        tensors[name] = tensors[name].flip(0)
    save_file(tensors, folder / WEIGHTS)
    rewrite_manifest(folder)
    with pytest.raises(CheckpointError):
        open_sparse(folder)


def test_stock_transformers_refuses_the_sparse_folder_and_opens_the_exported_one(lm, folder, tmp_path):
    with pytest.raises(OSError):
        AutoModelForCausalLM.from_pretrained(folder)
    export(folder, tmp_path / "dense")
    stock, info = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ids = torch.arange(5, 25)[None]
    assert torch.equal(stock(ids).logits, lm.model(ids).logits)
    assert open_model(tmp_path / "dense").prompt == lm.prompt


def test_bfloat16_halves_the_file_and_keeps_the_mask(lm, folder, tmp_path):
    small = save_sparse(lm, tmp_path / "b", structure="unstructured", package=PackageParams(dtype="bfloat16"))
    assert small.mask_digest == read_manifest(folder).mask_digest
    assert small.num_bytes < 0.6 * read_manifest(folder).num_bytes
    assert check_files(tmp_path / "b").dtype == "bfloat16"
    open_sparse(tmp_path / "b")


def test_a_dense_model_is_no_sparse_checkpoint(lm, tmp_path):
    lm.mask = None
    with pytest.raises(CheckpointError, match="needs a mask"):
        save_sparse(lm, tmp_path / "c", structure="unstructured")


def test_no_model_there_is_a_clear_error(tmp_path):
    with pytest.raises(ModelError, match="has to be tiny, smollm2, or a causal-LM folder"):
        open_model(tmp_path)


def test_pickled_weights_are_refused(lm, tmp_path):
    lm.model.config.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    torch.save(lm.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError):
        open_model(tmp_path)
