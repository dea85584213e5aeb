"""An adapter merged into its base by peft, with the base's zeros kept, lost or set again as was asked."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sau.errors import ModelError
from sau.models.dense import open_dense
from sau.models.folder import check_takeable
from sau.models.language_model import quiet
from sau.models.layers import prunable
from sau.pruners import PruneParams, prune
from sau.pruners.adapter import check_merge, merge_adapter, merged_in_words, open_adapter
from sau.pruners.found import find_mask

peft = pytest.importorskip("peft")

TARGETS = ["q_proj", "down_proj"]


@pytest.fixture(scope="module")
def bases(tiny, tmp_path_factory):
    """The same model dense and 2:4, in bfloat16 and several files."""
    folder = tmp_path_factory.mktemp("bases")
    for name in ("dense", "sparse"):
        lm = tiny()
        if name == "sparse":
            prune(lm, [], PruneParams(pruner="magnitude", structure="2:4"))
        with quiet():
            lm.model.to(torch.bfloat16).save_pretrained(folder / name, max_shard_size="30KB")
            lm.tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def adapter(bases, tmp_path):
    """An adapter of a base as peft saves it, with something learned in it."""

    def make(base="sparse", learned=0.02, **config):
        lm = open_dense(bases / base, prompt="plain")
        options = {"r": 2, "lora_alpha": 4, "target_modules": TARGETS, "task_type": "CAUSAL_LM"} | config
        torch.manual_seed(0)
        tuned = peft.get_peft_model(lm.model, peft.LoraConfig(**options))
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, 0, learned)
        tuned.peft_config["default"].base_model_name_or_path = str(bases / base)
        with quiet():
            tuned.save_pretrained(tmp_path / "adapter")
            lm.tokenizer.chat_template = "{{ messages[0]['content'] }}"
            lm.tokenizer.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter"

    return make


def weights(folder):
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


def merged(folder, base, target, remask=None):
    merge_adapter(open_adapter(str(folder)), base, target, remask=remask)
    return target


def test_what_is_merged_is_the_base_and_the_product_of_its_two_matrices(adapter, bases, tmp_path):
    """Reference: W + alpha / r * B A by hand, in float32, rounded as the base is."""
    folder = adapter("dense")
    assert open_adapter(str(folder)).base == str(bases / "dense")
    found, before = weights(merged(folder, bases / "dense", tmp_path / "out")), weights(bases / "dense")
    parts = load_file(folder / "adapter_model.safetensors")
    assert found.keys() == before.keys()
    for name, value in found.items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        expected = before[name].float()
        if (key := f"{prefix}.lora_A.weight") in parts:
            expected = expected + 2.0 * parts[f"{prefix}.lora_B.weight"] @ parts[key]
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, expected.to(torch.bfloat16)) or (value - expected).abs().max() < 1e-3
        assert (not torch.equal(value, before[name])) == any(target in name for target in TARGETS)
    assert merged_in_words(tmp_path / "out") == "an adapter (LORA) was merged into its base, which had no mask"
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages[0]['content'] }}"
    check_takeable(str(tmp_path / "out"))


def test_zeros_that_merging_fills_are_refused_and_set_or_let_go_where_that_is_asked_for(adapter, bases, tmp_path):
    folder, base = adapter(), bases / "sparse"
    with pytest.raises(ModelError, match=r"fills them, 512 of 512 in \S+q_proj.weight alone: --remask .*--no-remask"):
        merged(folder, base, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    again = open_dense(merged(folder, base, tmp_path / "again", remask=True), prompt="plain")
    mask = find_mask(open_dense(base, prompt="plain").model).mask
    found = find_mask(again.model)
    assert found.structure == "2:4"
    assert all(torch.equal(found.mask[name], kept) for name, kept in mask.items())
    assert "in 4 matrices, were filled and set to zero again" in merged_in_words(tmp_path / "again")
    lost = find_mask(open_dense(merged(folder, base, tmp_path / "lost", remask=False), prompt="plain").model)
    assert sum(zeros.masked for zeros in lost.matrices.values()) == 10
    assert "were filled and lost as pruned" in merged_in_words(tmp_path / "lost")
    before = dict(open_dense(base, prompt="plain").model.named_parameters())
    changed = [name for name, m in prunable(again.model) if not torch.equal(m.weight, before[f"{name}.weight"])]
    assert len(changed) == 4  # survivors carry what was learned


def test_an_adapter_that_leaves_the_zeros_needs_no_word(adapter, bases, tmp_path):
    folder = adapter(learned=0.0)
    merged(folder, bases / "sparse", tmp_path / "out")
    assert find_mask(open_dense(tmp_path / "out", prompt="plain").model).structure == "2:4"
    assert "zeros it left" in merged_in_words(tmp_path / "out")


KINDS = {
    "lora": (peft.LoraConfig, {"r": 2, "init_lora_weights": False}, True),
    "dora": (peft.LoraConfig, {"r": 2, "init_lora_weights": False, "use_dora": True}, True),
    "loha": (peft.LoHaConfig, {"r": 2, "init_weights": False}, True),
    "lokr": (peft.LoKrConfig, {"r": 2, "init_weights": False}, True),
    "nothing learned": (peft.LoraConfig, {"r": 2}, False),
    "scales": (peft.IA3Config, {"feedforward_modules": ["down_proj"], "init_ia3_weights": False}, False),
    "whole": (peft.LoraConfig, {"r": 2, "modules_to_save": ["o_proj"]}, True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_refused_beforehand_is_what_merging_refuses(bases, tmp_path, kind):
    config, options, fills = KINDS[kind]
    lm = open_dense(bases / "sparse", prompt="plain")
    tuned = peft.get_peft_model(lm.model, config(target_modules=TARGETS, task_type="CAUSAL_LM", **options))
    for name, parameter in tuned.named_parameters():
        if "modules_to_save" in name:
            parameter.data += 0.01
    with quiet():
        tuned.save_pretrained(tmp_path / "adapter")
    adapter, said = open_adapter(str(tmp_path / "adapter")), []
    for refuse in (check_merge, lambda *given: merge_adapter(*given, tmp_path / "out", remask=None)):
        try:
            refuse(adapter, bases / "sparse")
        except ModelError as error:
            said.append(str(error))
    assert len(said) == 2 * fills
    assert len({*said}) == int(fills), "in the same words"


@pytest.mark.parametrize("base", ["dense", "sparse"])
def test_beforehand_no_more_is_merged_than_tells_it(adapter, bases, tmp_path, base):
    """The last matrix cannot be merged: whoever merged all of them would meet it."""
    folder = adapter(base)
    path = folder / "adapter_model.safetensors"
    state = load_file(path)
    state[sorted(name for name in state if "lora_B" in name)[-1]].fill_(torch.nan)
    save_file(state, path)
    with pytest.raises(ModelError, match="does not fit"):
        merged(folder, bases / base, tmp_path / "out")
    if base == "dense":
        check_merge(open_adapter(str(folder)), bases / base)
    else:
        with pytest.raises(ModelError, match="merging fills them"):
            check_merge(open_adapter(str(folder)), bases / base)


def test_beforehand_an_adapter_of_another_base_is_refused(adapter, bases):
    folder = adapter("dense")
    another_shape(folder)
    with pytest.raises(ModelError, match="does not fit"):
        check_merge(open_adapter(str(folder)), bases / "dense")


def another_shape(folder):
    path = folder / "adapter_model.safetensors"
    save_file({name: value[:, :-1].contiguous() for name, value in load_file(path).items()}, path)


def one_more(folder):
    path = folder / "adapter_model.safetensors"
    state = load_file(path)
    name = sorted(state)[0]
    save_file(state | {name.replace("layers.0", "layers.7"): state[name].clone()}, path)


def one_less(folder):
    path = folder / "adapter_model.safetensors"
    state = load_file(path)
    save_file({name: state[name] for name in sorted(state)[1:]}, path)


@pytest.mark.parametrize("change", [another_shape, one_more, one_less])
def test_an_adapter_of_another_base_is_refused(adapter, bases, tmp_path, change):
    folder = adapter("dense")
    change(folder)
    with pytest.raises(ModelError, match="does not fit"):
        merged(folder, bases / "dense", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def says(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), "leave out --merge-adapter"),
        (lambda folder: says(folder, peft_type="PROMPT_TUNING"), "PROMPT_TUNING, which peft does not merge"),
        (
            lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"),
            "no adapter_model",
        ),
    ],
)
def test_what_cannot_be_merged_is_refused_before_anything_is_read(adapter, change, why):
    folder = adapter("dense")
    change(folder)
    with pytest.raises(ModelError, match=why):
        open_adapter(str(folder))
