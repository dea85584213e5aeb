"""Dense folders: tying is read from the weights, and nothing random is trained on."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import sau
from sau.errors import ModelError
from sau.models.dense import check_opens_again, stored_state, tied
from sau.models.door import check_model
from sau.models.language_model import quiet


@pytest.fixture
def folder(tiny, tmp_path):
    """Writes a folder whose head is the embedding or is not, and whose config says the one or the other."""

    def made(*, is_tied, says_tied):
        tokenizer = tiny().tokenizer
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            tie_word_embeddings=is_tied, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        with quiet():
            model.save_pretrained(tmp_path / "model")
            tokenizer.save_pretrained(tmp_path / "model")
        path = tmp_path / "model" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": says_tied}))
        return tmp_path / "model", model

    return made


@pytest.mark.parametrize("says_tied", [False, True])
def test_a_head_that_differs_from_the_embedding_is_kept(folder, tmp_path, says_tied):
    path, model = folder(is_tied=False, says_tied=says_tied)
    lm = sau.open(path)
    sau.prune(lm, [], pruner="magnitude")
    sau.save(lm, tmp_path / "sparse")
    sau.export(tmp_path / "sparse", tmp_path / "dense")
    for again in (lm, sau.open(tmp_path / "sparse"), sau.open(tmp_path / "dense")):
        assert torch.equal(again.model.lm_head.weight, model.lm_head.weight)
        assert torch.equal(again.model.model.embed_tokens.weight, model.model.embed_tokens.weight)
        assert again.model.config.tie_word_embeddings is False
        check_model(again)


def test_a_head_that_is_the_embedding_is_stored_once(folder, tmp_path):
    path, _ = folder(is_tied=True, says_tied=True)
    lm = sau.open(path)
    assert tied(lm.model) == {"lm_head.weight": "model.embed_tokens.weight"}
    assert "lm_head.weight" not in stored_state(lm.model)
    sau.prune(lm, [], pruner="magnitude")
    sau.save(lm, tmp_path / "sparse")
    again = sau.open(tmp_path / "sparse").model
    assert again.lm_head.weight is again.model.embed_tokens.weight


def test_a_head_tied_by_hand_stays_tied(folder, tmp_path):
    path, _ = folder(is_tied=False, says_tied=False)
    lm = sau.open(path)
    lm.model.lm_head.weight = lm.model.model.embed_tokens.weight
    check_opens_again(lm.model)
    sau.prune(lm, [], pruner="magnitude")
    sau.save(lm, tmp_path / "sparse")
    assert torch.equal(sau.open(tmp_path / "sparse").model.lm_head.weight, lm.model.lm_head.weight)


def test_a_head_that_is_in_no_file_is_refused(folder):
    path, _ = folder(is_tied=True, says_tied=False)
    with pytest.raises(ModelError, match=r"missing, unexpected or misshapen weights: lm_head\.weight"):
        sau.open(path)


def test_numbers_that_are_not_finite_are_refused_at_the_door(tiny):
    lm = tiny()
    lm.model.model.norm.weight.data[0] = float("inf")
    with pytest.raises(ModelError, match=r"model\.norm\.weight holds numbers that are not finite"):
        check_model(lm)


def test_a_token_that_has_no_embedding_is_refused_at_the_door(tiny):
    lm = tiny()
    lm.tokenizer.add_special_tokens({"eos_token": "<other>"})
    with pytest.raises(ModelError, match="its tokenizer gives token 320, its embedding has 320"):
        check_model(lm)


def test_the_door_says_what_would_be_done(tiny):
    lm = tiny()
    plan = check_model(lm)
    assert plan.num_embedding == lm.model.get_input_embeddings().weight.numel()
    assert plan.num_parameters == sum(p.numel() for p in lm.model.parameters())
    assert plan.num_parameters == plan.num_prunable + plan.num_embedding + plan.num_vectors
    assert plan.share == plan.num_prunable / plan.num_parameters
    assert plan.uncovered == ()


def _adapter(path):
    (path / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def _quantised(path):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq", "bits": 4}}))


def _pickled(path):
    (path / "model.safetensors").unlink()
    torch.save({}, path / "pytorch_model.bin")


def _misshapen(path):
    tensors = load_file(path / "model.safetensors") | {"model.norm.weight": torch.ones(7)}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def _cut_off(path):
    (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:2000])


def _of_another_task(path):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_adapter, "an adapter, .* merge it into its base model first"),
        (_quantised, r"its weights are quantised \(gptq\); save it dequantised"),
        (_pickled, "its weights are pickles, .* save it as safetensors"),
        (_misshapen, r"misshapen weights: .*model\.norm\.weight"),
        (_cut_off, "causal-LM folder .*SafetensorError"),
        (_of_another_task, "causal-LM folder .*ViTConfig"),
    ],
)
def test_a_folder_that_is_no_model_of_ours_is_refused_with_the_reason(folder, spoil, why):
    path, _ = folder(is_tied=False, says_tied=False)
    spoil(path)
    with pytest.raises(ModelError, match=why):
        sau.open(path)


def test_what_opens_is_what_the_file_holds(tiny, tmp_path):
    """transformers 5.23 clears the pad row of Youtu's embedding after loading, and says nothing."""
    tokenizer = tiny().tokenizer
    config = AutoConfig.for_model(
        "youtu", vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=8,
        qk_nope_head_dim=8, v_head_dim=8, pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    model.model.embed_tokens.weight.data.fill_(0.5)
    with quiet():
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
    try:
        lm = sau.open(tmp_path / "model")
        held = torch.equal(lm.model.model.embed_tokens.weight, model.model.embed_tokens.weight)
    except ModelError as error:
        held = "put other numbers in place of the file's: model.embed_tokens.weight" in str(error)
    assert held
