"""Folders of others: what is refused by config and headers alone, and what is taken along."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sau.errors import ModelError
from sau.models.folder import check_takeable, fingerprint, read_headers, served_of, take_folder
from sau.models.language_model import quiet


@pytest.fixture
def folder(tiny, tmp_path):
    """A model in three files, in bfloat16, as somebody else's tool writes it."""
    lm = tiny()
    with quiet():
        lm.model.to(torch.bfloat16).save_pretrained(tmp_path / "model", max_shard_size="30KB")
        lm.tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "modeling_own.py").write_text("raise SystemExit\n")
    (tmp_path / "model" / "optimizer.bin").write_bytes(b"\x80")
    return tmp_path / "model"


def says(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def an_adapter(folder):
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "b"}))


def pickles(folder):
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80")


def integers(folder):
    path = sorted(folder.glob("*.safetensors"))[-1]
    state = load_file(path)
    name = next(name for name, value in state.items() if value.ndim > 1)
    save_file(state | {name: state[name].to(torch.int8)}, path)


def cut(folder):
    path = sorted(folder.glob("*.safetensors"))[-1]
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (an_adapter, "merge it into its base model first"),
        (pickles, "its weights are pickles"),
        (integers, "is stored as I8"),
        (cut, "not readable"),
        (lambda f: sorted(f.glob("*.safetensors"))[0].unlink(), "weights files are missing"),
        (lambda f: says(f, quantization_config={"quant_method": "gptq"}), r"quantised \(gptq\); save it dequantised"),
        (
            lambda f: says(
                f,
                quantization_config={
                    "quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-bitmask"}
                },
            ),
            "compressed-tensors, sparse-bitmask.*pip install --no-deps",
        ),
        (lambda f: says(f, model_type="own", auto_map={"AutoModelForCausalLM": "modeling_own.Own"}), "remote code"),
        (lambda f: says(f, model_type="clip"), "clip is no causal language model"),
        (lambda f: (f / "config.json").unlink(), "names no architecture"),
    ],
)  # fmt: skip
def test_what_is_no_model_to_take_is_refused_by_config_and_headers(folder, change, why):
    check_takeable(str(folder))
    change(folder)
    with pytest.raises(ModelError, match=why):
        check_takeable(str(folder))


def test_what_is_no_folder_and_not_on_the_hub_is_refused():
    with pytest.raises(ModelError, match="causal-LM folder or hub id"):
        check_takeable("nobody/nothing")


def test_weights_and_what_lies_beside_them_are_taken_and_nothing_else(folder, tmp_path):
    take_folder(folder, tmp_path / "taken")
    taken = {path.name for path in (tmp_path / "taken").iterdir()}
    assert taken == {path.name for path in folder.iterdir()} - {"modeling_own.py", "optimizer.bin"}
    assert all((tmp_path / "taken" / name).read_bytes() == (folder / name).read_bytes() for name in taken)
    headers = read_headers(tmp_path / "taken")
    assert (headers.dtype, len(headers.files)) == ("bfloat16", len(list(folder.glob("*.safetensors"))))
    assert served_of(folder, headers.max_shard_bytes).files.keys() == {n for n in taken if "safetensors" not in n}


def test_a_folder_that_was_changed_is_told_from_what_it_was(folder):
    before = fingerprint(folder)
    assert fingerprint(folder) == before
    says(folder, bos_token_id=3)
    assert fingerprint(folder) != before
