"""Export gives back what was adopted, and nothing that stock transformers opens otherwise."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from sau.checkpoint.card import Story, card_of
from sau.checkpoint.delta import save_delta
from sau.checkpoint.digests import dense_digest
from sau.checkpoint.export import check_export, export
from sau.checkpoint.manifest import read_manifest
from sau.checkpoint.sparse import PackageParams, open_sparse, save_sparse
from sau.errors import CheckpointError
from sau.mask import apply_mask
from sau.models.dense import open_dense, stored_state
from sau.models.language_model import PROMPT, quiet
from sau.pruners.found import find_mask

TEMPLATE = "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }}\n{% endfor %}"


@pytest.fixture
def dtype():
    return "bfloat16"


@pytest.fixture
def served(masked, tmp_path, dtype):
    """What somebody serves: several files, a chat template, a generation config that transformers refuses to write."""
    lm, folder = masked(), tmp_path / "served"
    with quiet():
        lm.model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size="60KB")
        lm.tokenizer.chat_template = TEMPLATE
        lm.tokenizer.save_pretrained(folder)
    generation = {"temperature": 0.6, "top_p": 0.9, "eos_token_id": lm.tokenizer.eos_token_id}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "LICENSE").write_text("theirs\n")
    return folder


@pytest.fixture
def adopted(served, tmp_path, dtype):
    """The same as a sparse checkpoint."""
    lm = open_dense(served, prompt=PROMPT)
    lm.mask = find_mask(lm.model, "mask").mask
    apply_mask(lm.model, lm.mask)
    save_sparse(lm, tmp_path / "adopted", structure="unstructured", package=PackageParams(dtype=dtype))
    return tmp_path / "adopted"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_what_was_adopted_comes_back_as_it_was(served, adopted, tmp_path, dtype):
    folder = served
    export(adopted, tmp_path / "back")
    back = tmp_path / "back"
    assert dense_digest(back) == dense_digest(folder)
    files, again = ({p.name for p in place.iterdir()} for place in (folder, back))
    assert again == files | {"README.md", "sau.json"}
    for name in files - {"config.json"}:
        if "safetensors" not in name:
            assert (back / name).read_bytes() == (folder / name).read_bytes()
    assert json.loads((back / "config.json").read_text()) == json.loads((folder / "config.json").read_text())
    with quiet():
        model, info = AutoModelForCausalLM.from_pretrained(back, dtype="auto", output_loading_info=True)
    assert not any(info.values())
    assert model.dtype == getattr(torch, dtype)
    assert AutoTokenizer.from_pretrained(back).chat_template == TEMPLATE
    assert GenerationConfig.from_pretrained(back).temperature == 0.6


def test_the_next_versions_pass_on_what_lies_beside_the_weights(adopted, tmp_path):
    lm = open_sparse(adopted)
    with torch.no_grad():
        lm.model.model.norm.weight.add_(1.0)
    save_sparse(lm, tmp_path / "next", structure="unstructured", package=PackageParams(dtype="bfloat16"))
    assert read_manifest(tmp_path / "next").side_digest == read_manifest(adopted).side_digest
    export(tmp_path / "next", tmp_path / "back")
    assert (tmp_path / "back" / "LICENSE").read_text() == "theirs\n"


def test_what_does_not_open_as_it_should_is_not_there(adopted, tmp_path, monkeypatch):
    """Fault: one matrix is not written as it is."""
    import sau.checkpoint.export as module

    write = module.save_dense

    def spoiled(lm, folder):
        write(lm, folder)
        for path in folder.glob("*.safetensors"):
            state = load_file(path)
            if (name := "model.layers.0.mlp.up_proj.weight") in state:
                save_file(state | {name: state[name] * 2}, path, metadata={"format": "pt"})

    monkeypatch.setattr(module, "save_dense", spoiled)
    with pytest.raises(CheckpointError, match=r"opens model\.layers\.0\.mlp\.up_proj\.weight with other numbers"):
        export(adopted, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_pruned_weight_that_is_no_zero_is_found(adopted, tmp_path):
    export(adopted, tmp_path / "back")
    lm = open_sparse(adopted)
    name, kept = next(iter(lm.mask.items()))
    state = stored_state(open_dense(tmp_path / "back", prompt=PROMPT).model)
    with pytest.raises(Exception, match=f"{name}: .* pruned weights are not"):
        check_export(tmp_path / "back", state, {name: torch.zeros_like(kept)})


def test_a_delta_is_applied_once_before_it_is_there(line, tmp_path, monkeypatch):
    import sau.checkpoint.delta as module

    save_delta(line[1], line[0], tmp_path / "delta", tried=True)
    assert {path.name for path in tmp_path.iterdir()} == {"delta"}
    monkeypatch.setattr(module, "write_raw_weights", lambda *args: None)
    with pytest.raises(CheckpointError):
        save_delta(line[1], line[0], tmp_path / "spoiled", tried=True)
    assert {path.name for path in tmp_path.iterdir()} == {"delta"}


def test_the_card_says_where_it_comes_from_and_what_it_forgot(adopted, tmp_path):
    row = ("support@v2", "`r-1`", "PASS", "standard", "24 people the model never saw")
    story = Story("support@v2", "`my-llama`", {"Data it may know (DVC md5)": "`d`"}, [row], hub_id="org/my-llama")
    export(adopted, tmp_path / "back", card=lambda manifest: card_of(manifest, story))
    _, front, text = (tmp_path / "back" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["sparse", "machine-unlearning"],
        "base_model": "org/my-llama",
    }  # fmt: skip
    manifest = read_manifest(adopted)
    for shown in (*row, manifest.weights_digest, manifest.mask_digest, f"{manifest.covered:.0%} of all", "## Limits"):
        assert shown in text
    assert "not known" in card_of(manifest)
