"""The plan: what unlearning holds in memory, by shapes alone."""

import pytest
import torch
from transformers import AutoConfig, LlamaConfig

from sau.errors import ConfigError, SparsityError
from sau.models.layers import decoder_blocks
from sau.training import eight_bit
from sau.unlearn.fading import check_can_fade
from sau.unlearn.memory import Case, activation_bytes, plan_memory, settings_that_fit, shell_of
from sau.unlearn.step import UnlearnParams

WIDTH, INNER, LAYERS, WORDS = 64, 160, 3, 512
ATTENTION, MLP = 4 * WIDTH * WIDTH, 3 * WIDTH * INNER
PRUNABLE = LAYERS * (ATTENTION + MLP)
NORMS = (2 * LAYERS + 1) * WIDTH
ALL = PRUNABLE + NORMS + WORDS * WIDTH


@pytest.fixture(scope="module")
def shell():
    return shell_of(
        LlamaConfig(
            hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS, vocab_size=WORDS,
            num_attention_heads=4, tie_word_embeddings=True,
        )
    )  # fmt: skip


def params(**fields):
    chosen = {"lr": 1e-3, "max_steps": 10, "batch_size": 4, "redistribution": "none", "stop": None} | fields
    return UnlearnParams.model_validate(chosen)


def test_nothing_is_loaded(shell):
    assert {parameter.device.type for parameter in shell.parameters()} == {"meta"}


@pytest.mark.parametrize("item", [4, 2])
def test_every_part_is_counted_from_the_shapes(shell, item):
    plan = plan_memory(shell, Case(params(), sparsity=0.75, itemsize=item, has_base=False))
    assert plan.num_parameters == ALL
    assert plan.phase == "unlearning"
    assert plan.parts["weights"] == ALL * item
    assert plan.parts["mask"] == PRUNABLE
    assert plan.parts["checkpoint's file"] == (PRUNABLE // 4 + ALL - PRUNABLE) * item + PRUNABLE // 8
    assert plan.parts["gradients"] == (PRUNABLE + NORMS) * item
    assert plan.parts["survivors' optimizer state"] == (PRUNABLE // 4 + NORMS) * 8
    assert plan.parts["base model"] == plan.parts["best state so far"] == plan.parts["redistribution"] == 0
    small, none = (plan_memory(shell, Case(params(optimizer_state=state), 0.75, item)) for state in ("8bit", "none"))
    assert small.parts["survivors' optimizer state"] == round((PRUNABLE // 4 + NORMS) * 2 * (1 + 4 / 256))
    assert none.parts["survivors' optimizer state"] == 0


def test_what_parameters_ask_for_is_in_the_plan(shell):
    squares = LAYERS * (6 * WIDTH**2 + INNER**2)
    natural = plan_memory(shell, Case(params(redistribution="natural", stop={}), has_base=False)).parts
    assert natural["redistribution"] == squares * 4
    assert natural["best state so far"] == (PRUNABLE + NORMS) * 4
    adapted = plan_memory(shell, Case(params(adapt={"epochs": 1, "lr": 1e-3, "batch_size": 64})))
    assert adapted.phase == "the base model is adapted"
    assert adapted.parts["base model"] == 2 * ALL * 4
    assert adapted.parts["optimizer state"] == ALL * 8


def test_activations_grow_with_the_tokens_and_are_found_where_the_meta_device_cannot_go(shell):
    small, large = (activation_bytes(shell, rows, 16, 4) for rows in (4, 8))
    assert 1.9 < large / small < 2.1
    assert small > 64 * LAYERS * (8 * WIDTH + 3 * INNER) * 4
    config = AutoConfig.for_model("mixtral", hidden_size=64, intermediate_size=96, num_hidden_layers=2, vocab_size=512,
                                  num_attention_heads=4, num_key_value_heads=2, num_local_experts=4)  # fmt: skip
    experts = shell_of(config)
    assert activation_bytes(experts, 4, 16, 4) > 64 * 2 * 4 * 64
    with pytest.raises(SparsityError, match="fused experts cannot fade"):
        check_can_fade(experts)


def test_parts_of_a_batch_and_checkpoints_are_in_the_plan(shell):
    def planned(**placed):
        chosen = params(batch_size=8, adapt={"epochs": 1, "lr": 1e-3, "batch_size": 8})
        return plan_memory(shell, Case(chosen, has_base=False, **placed)).parts["activations"]

    whole, part, again, both = (
        planned(**placed)
        for placed in (
            {}, {"micro_batch": 2}, {"gradient_checkpointing": True},
            {"micro_batch": 2, "gradient_checkpointing": True},
        )
    )  # fmt: skip
    assert whole / part == pytest.approx(4, rel=0.05)
    assert planned(micro_batch=64) == whole
    one_block = activation_bytes(shell_of(LlamaConfig(**shell.config.to_dict() | {"num_hidden_layers": 1})), 8, 64, 4)
    assert again == pytest.approx(one_block + LAYERS * 8 * 64 * WIDTH * 4, rel=0.02)
    assert again / both == pytest.approx(4, rel=0.05)


def test_settings_that_would_make_it_fit_are_named_until_it_does(shell):
    case = Case(params(redistribution="natural", adapt={"epochs": 1, "lr": 1e-3, "batch_size": 64}, stop={}))
    peak = plan_memory(shell, case).peak
    assert settings_that_fit(shell, case, peak - 1) == ["unlearn.adapt=null"]
    longer = settings_that_fit(shell, case, plan_memory(shell, Case(params(batch_size=2))).peak)
    assert longer == ["unlearn.adapt=null", "unlearn.redistribution=none", "model.micro_batch=1"]
    assert settings_that_fit(shell, case, 1) == []


def test_what_a_backward_pass_keeps_is_not_missed_and_little_more_is_counted(shell):
    """Reference: the same model with weights, the tensors that autograd saves of a real pass."""
    real = shell_of(shell.config).to_empty(device="cpu")
    real.model.rotary_emb.inv_freq.fill_(0.1)
    for parameter in real.parameters():
        torch.nn.init.normal_(parameter, 0, 0.02)
    own = {parameter.untyped_storage().data_ptr() for parameter in real.parameters()}
    seen = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = real(input_ids=torch.randint(0, WORDS, (4, 25)), use_cache=False).logits[:, :15]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.zeros(60, dtype=torch.long))
    measured = sum(storage.nbytes() for storage in seen.values())
    assert measured < activation_bytes(shell, 4, 25, 4) < 1.35 * measured


def test_several_processes_divide_what_has_rows(shell):
    one, four = (
        plan_memory(shell, Case(params(redistribution="natural", stop={}, processes=n), has_base=False)) for n in (1, 4)
    )
    for name in ("weights", "mask", "gradients", "survivors' optimizer state", "best state so far"):
        assert four.parts[name] == -(-one.parts[name] // 4), name
    for name in ("Python", "redistribution"):
        assert four.parts[name] == one.parts[name], name
    assert four.parts["activations"] < one.parts["activations"], "each has a part of a batch's rows"
    biggest_block = max(sum(p.numel() for p in block.parameters()) for block in decoder_blocks(shell)[1])
    assert four.parts["gathered for a pass, with gradients"] > 2 * biggest_block * 4
    assert four.phase.endswith("in each of 4 processes")


def test_eight_bits_without_their_library_are_refused_before_anything_else(loop, lm, monkeypatch):
    monkeypatch.setattr(eight_bit, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[eight-bit\]'"):
        loop(lm, params(optimizer_state="8bit"))
