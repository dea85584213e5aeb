"""An adapter from anywhere: whatever its files say, it is merged, or refused before anything large is made of it."""

import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from sau.errors import ModelError
from sau.models.language_model import quiet
from sau.pruners.adapter import merge_adapter, open_adapter
from tests.hostile import JSON, altered, damaged, examples, read_or_refused

peft = pytest.importorskip("peft")

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """A base, and an adapter of it."""
    folder, lm = tmp_path_factory.mktemp("adapters"), tiny()
    with quiet():
        lm.model.save_pretrained(folder / "base")
        lm.tokenizer.save_pretrained(folder / "base")
        options = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
        peft.get_peft_model(lm.model, options).save_pretrained(folder / "adapter")
    return folder


@pytest.fixture
def adapter(whole, tmp_path):
    """Makes a fresh copy."""

    def made():
        shutil.rmtree(tmp_path / "adapter", ignore_errors=True)
        return shutil.copytree(whole / "adapter", tmp_path / "adapter")

    return made


def merged(folder, base):
    """As `sau adopt --merge-adapter` takes one."""
    shutil.rmtree(out := folder.parent / "out", ignore_errors=True)
    merge_adapter(open_adapter(str(folder)), base, out, remask=None)
    return out


def says(folder, **fields):
    (folder / CONFIG).write_text(json.dumps(json.loads((folder / CONFIG).read_text()) | fields))


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@examples(10)
@given(data=st.data())
def test_damaged_files_of_an_adapter(adapter, whole, name, data):
    folder = adapter()
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(data.draw(damaged(content[:2000])) + content[2000:])
    read_or_refused(lambda: merged(folder, whole / "base"), ModelError, may_quote=True)


@examples(20)
@given(data=st.data())
def test_descriptions_with_values_of_any_kind(adapter, whole, data):
    folder = adapter()
    told = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(data.draw(st.one_of(altered(told), JSON))))
    read_or_refused(lambda: merged(folder, whole / "base"), ModelError, may_quote=True)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"r": 1 << 40}, "r says more than 32"),
        ({"r": float("inf")}, "r says more than 32"),
        ({"rank_pattern": {"q_proj": 10**9}}, "rank_pattern says more than 32"),
        ({"layer_replication": [[0, 10**9]]}, "layer_replication is not taken"),
        ({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, "megatron_config is not taken"),
        ({"target_modules": r"(\w+.?)+!"}, "target_modules is a pattern that may take for ever"),
        ({"exclude_modules": ".*" * 30 + "!"}, "exclude_modules is a pattern that may take for ever"),
        ({"rank_pattern": {"(a*)*!": 2}}, "rank_pattern is a pattern that may take for ever"),
        ({"peft_type": "PROMPT\n" * 500}, "of the kind PROMPT, which"),
        ({"peft_type": ["LORA"]}, r"of the kind \['LORA'\], which"),
    ],
)
def test_what_would_take_for_ever_or_run_something_is_refused_before_anything_is_made(adapter, fields, why):
    folder = adapter()
    says(folder, **fields)
    with pytest.raises(ModelError, match=why) as refused:
        open_adapter(str(folder))
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "pattern",
    [
        r".*\.(q_proj|k_proj)",
        r"^(?!.*(lm_head|embed)).*proj$",
        r"(?:.*?(?:language|text).*?(?:self_attn|attn|mlp).*?(?:q_proj|fc1).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn)\.(?:(?:q_proj)))",
    ],
)
def test_patterns_that_tools_write_are_taken(adapter, whole, pattern):
    folder = adapter()
    says(folder, target_modules=pattern.replace("|k_proj", "").replace(".*proj$", ".*q_proj$"))
    assert merged(folder, whole / "base").is_dir()


def test_deep_and_endless_files_are_no_adapter(adapter):
    folder = adapter()
    for content in (b"[" * 100_000, b'{"a":' * 100_000, b" " * (5 << 20)):
        (folder / CONFIG).write_bytes(content)
        with pytest.raises(ModelError, match=r"no adapter_config\.json"):
            open_adapter(str(folder))


@pytest.mark.parametrize(
    "odd", [torch.zeros(0), torch.zeros(3, 3, 3), torch.tensor(1.0), torch.full((2, 32), torch.nan)]
)
def test_odd_tensors(adapter, whole, odd):
    folder = adapter()
    state = load_file(folder / WEIGHTS)
    for name in (next(iter(state)), "base_model.model.another", "\n"):
        save_file(state | {name: odd}, folder / WEIGHTS)
        assert read_or_refused(lambda: merged(folder, whole / "base"), ModelError, may_quote=True) is None
        assert not (folder.parent / "out").exists()
