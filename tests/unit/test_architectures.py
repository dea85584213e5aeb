"""Every architecture the whole way: the door, pruning, unlearning, saving, opening, exporting to stock transformers.

The models are random and tiny, made from their configs. docs/own-model.md lists what is tried here.
"""

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

import sau
from sau.data.demo import demo_rows
from sau.data.sets import Sets
from sau.errors import ModelError, SparsityError
from sau.mask import check_mask, check_structure
from sau.models.batches import collate
from sau.models.door import check_model
from sau.models.language_model import PROMPT, LanguageModel, quiet
from sau.models.layers import embeddings, prunable, uncovered
from sau.pruners import PruneParams, prune
from sau.pruners.base import keep_highest
from sau.pruners.wanda import wanda_score

PAGE = Path(__file__).resolve().parents[2] / "docs" / "own-model.md"

SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "bos_token_id": None,
}  # fmt: skip
GPT = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 256, "bos_token_id": None}
EXPERTS = SHAPE | {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
ROUTED = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1}
LATENT |= ROUTED
SCANNED = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16}
NO_HEAD_DIM = {key: value for key, value in SHAPE.items() if key != "head_dim"}

TAKEN = {
    "apertus": SHAPE,
    "arcee": SHAPE,
    "biogpt": SHAPE,
    "bitnet": SHAPE,
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "bos_token_id": None},
    "codegen": GPT | {"rotary_dim": 8},
    "cohere": SHAPE,
    "cohere2": SHAPE | {"sliding_window": 16},
    "ctrl": {"n_layer": 2, "n_embd": 32, "n_head": 4, "dff": 48, "n_positions": 256},
    "cwm": SHAPE | {"sliding_window": 16, "bos_token_id": 0},
    "deepseek_v2": EXPERTS | LATENT | {"num_key_value_heads": 4, "first_k_dense_replace": 1},
    "deepseek_v3": EXPERTS | LATENT | {"num_key_value_heads": 4, "first_k_dense_replace": 1},
    "diffllama": SHAPE,
    "dots1": EXPERTS | ROUTED | {"n_shared_experts": 1, "first_k_dense_replace": 1},
    "ernie4_5": SHAPE,
    "ernie4_5_moe": EXPERTS | {"moe_num_experts": 4, "moe_k": 2, "moe_layer_start_index": 1},
    "exaone4": SHAPE,
    "falcon": NO_HEAD_DIM,
    "falcon_h1": SHAPE | SCANNED | {"mamba_d_ssm": 64},
    "falcon_mamba": SHAPE | {"state_size": 8},
    "flex_olmo": EXPERTS | {"num_experts": 4},
    "gemma": SHAPE,
    "gemma2": SHAPE | {"sliding_window": 16},
    "gemma3_text": SHAPE | {"sliding_window": 16},
    "glm": SHAPE,
    "glm4": SHAPE,
    "glm4_moe": EXPERTS | ROUTED | {"first_k_dense_replace": 1},
    "gpt2": GPT,
    "gpt_bigcode": GPT,
    "gpt_neo": SHAPE | {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "gpt_neox": SHAPE,
    "gpt_oss": EXPERTS | {"num_local_experts": 4, "sliding_window": 16},
    "gptj": GPT | {"rotary_dim": 8},
    "granite": SHAPE,
    "granitemoe": EXPERTS | {"num_local_experts": 4},
    "granitemoehybrid": EXPERTS | SCANNED | {
        "num_local_experts": 4, "shared_intermediate_size": 16, "layer_types": ["mamba", "attention"],
    },
    "helium": SHAPE,
    "hunyuan_v1_dense": SHAPE,
    "hunyuan_v1_moe": EXPERTS | {"num_experts": 4, "moe_topk": 2},
    "jamba": EXPERTS | {"num_experts": 4},
    "lfm2": SHAPE | {"full_attn_idxs": [1], "block_multiple_of": 8},
    "lfm2_moe": EXPERTS | {"num_experts": 4, "num_dense_layers": 1, "layer_types": ["conv", "full_attention"]},
    "llama": SHAPE,
    "mamba": SHAPE | {"state_size": 8},
    "mamba2": SHAPE | {"state_size": 8, "num_heads": 8, "head_dim": 8},
    "minicpm3": SHAPE | LATENT | {"num_key_value_heads": 4},
    "minimax": EXPERTS | {"num_local_experts": 4},
    "mistral": SHAPE | {"sliding_window": 16},
    "mixtral": EXPERTS | {"num_local_experts": 4},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256},
    "nemotron": SHAPE,
    "nemotron_h": EXPERTS | ROUTED | {
        "mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 1, "chunk_size": 16,
        "moe_shared_expert_intermediate_size": 16, "layers_block_type": ["mamba", "moe", "attention"],
    },
    "olmo": SHAPE,
    "olmo2": SHAPE,
    "olmo3": SHAPE | {"sliding_window": 16},
    "olmoe": EXPERTS | {"num_experts": 4},
    "openai-gpt": GPT,
    "opt": SHAPE | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "persimmon": SHAPE,
    "phi": SHAPE,
    "phi3": SHAPE,
    "phimoe": EXPERTS | {"num_local_experts": 4},
    "qwen2": SHAPE,
    "qwen2_moe": EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 16},
    "qwen3": SHAPE,
    "qwen3_moe": EXPERTS | {"num_experts": 4},
    "qwen3_next": EXPERTS | {
        "num_experts": 4, "shared_expert_intermediate_size": 16, "linear_num_value_heads": 4,
        "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    },
    "recurrent_gemma": SHAPE,
    "rwkv": {
        "hidden_size": 32, "attention_hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "context_length": 256, "bos_token_id": None,
    },
    "seed_oss": SHAPE,
    "smollm3": SHAPE,
    "stablelm": SHAPE,
    "starcoder2": SHAPE,
    "vaultgemma": SHAPE | {"sliding_window": 16},
    "xglm": {
        "d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4, "max_position_embeddings": 256,
        "bos_token_id": None,
    },
}  # fmt: skip

REFUSED = {
    "bart": ({"d_model": 32, "encoder_layers": 1, "decoder_layers": 1}, "matrices see no token"),
    "bert": (SHAPE, "what it says of a token depends on tokens that follow"),
    "big_bird": (SHAPE, "not one for each token"),
    "cpmant": (SHAPE | {"dim_head": 8, "dim_ff": 48}, "not one for each token"),
    "electra": (SHAPE, "what it says of a token depends on tokens that follow"),
    "fuyu": (SHAPE, "matrices see no token"),
    "gemma3n_text": (
        SHAPE | {"vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0},
        "used more than once in a pass",
    ),
    "hrm_text": (SHAPE, "used more than once in a pass"),
    "jetmoe": (EXPERTS | {"num_local_experts": 4, "kv_channels": 8}, "parameters can be pruned"),
    "llama4_text": (EXPERTS | {"num_local_experts": 4}, "parameters can be pruned"),
    "roberta": (SHAPE, "what it says of a token depends on tokens that follow"),
}


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return tiny().tokenizer


@pytest.fixture(scope="module")
def few():
    """Rows to forget, to retain and never seen."""
    return Sets(*(demo_rows(name, seed=1)[:6] for name in ("forget", "retain", "holdout")))


@pytest.fixture
def make(tokenizer):
    """Makes a random model of an architecture, its matrices large enough that logits differ."""

    def made(kind, options):
        with torch.random.fork_rng(devices=[]), quiet():
            torch.manual_seed(0)
            special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
            config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **special, **options)
            model = AutoModelForCausalLM.from_config(config).float().eval()
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    nn.init.normal_(parameter, 0, 0.1)
        return LanguageModel(model, tokenizer, PROMPT)

    return made


def on_page() -> dict[str, tuple[str, str]]:
    """What docs/own-model.md says: architecture -> (yes or no, why)."""
    return {m[1]: (m[2], m[3]) for m in re.finditer(r"^\| `([\w-]+)` \| (yes|no) \| (.*) \|$", PAGE.read_text(), re.M)}


@torch.no_grad()
def logits(model, sequence) -> torch.Tensor:
    return model.eval()(input_ids=torch.tensor([sequence.input_ids]), use_cache=False).logits


def test_the_page_lists_what_is_tried_here():
    assert {name for name, (taken, _) in on_page().items() if taken == "yes"} == TAKEN.keys()
    assert {name for name, (taken, _) in on_page().items() if taken == "no"} == REFUSED.keys()


@pytest.mark.parametrize("kind", TAKEN)
def test_the_whole_way(kind, make, few, tmp_path):
    lm = make(kind, TAKEN[kind])
    plan = check_model(lm)
    left = {re.sub(r"\.weight$", "", name).rpartition(".")[2] for name in plan.uncovered}
    assert on_page()[kind][1] == ", ".join(f"`{name}`" for name in sorted(left))

    sau.prune(lm, demo_rows("calibration", seed=0))
    assert sum(kept.numel() for kept in lm.mask.values()) == plan.num_prunable
    before = {name: parameter.detach().clone() for name, parameter in lm.model.named_parameters()}
    sau.unlearn(lm, few, max_steps=3, lr=1e-3, batch_size=3, objective="npo", stop=None)
    check_mask(lm.model, lm.mask)
    still = {name for name, parameter in lm.model.named_parameters() if torch.equal(parameter, before[name])}
    assert still >= {*plan.uncovered, *embeddings(lm.model)}
    assert not still & lm.mask.keys()

    sau.save(lm, tmp_path / "sparse")
    sau.export(tmp_path / "sparse", tmp_path / "dense")
    with quiet():
        stock, info = AutoModelForCausalLM.from_pretrained(
            tmp_path / "dense", dtype=torch.float32, output_loading_info=True
        )
    assert not any(info.values())
    sequence = lm.encode(few.retain)[0]
    assert torch.equal(logits(sau.open(tmp_path / "sparse").model, sequence), logits(lm.model, sequence))
    assert torch.equal(logits(stock, sequence), logits(lm.model, sequence))


@pytest.mark.parametrize("kind", REFUSED)
def test_a_clear_no_at_the_door(kind, make):
    options, why = REFUSED[kind]
    with pytest.raises(ModelError, match=why):
        check_model(make(kind, options))
    assert why in on_page()[kind][1]


# -- matrices that are kept otherwise --------------------------------------------------------------


def with_linears(lm: LanguageModel) -> LanguageModel:
    """The same function with an ordinary linear in place of every Conv1D."""
    lm = copy.deepcopy(lm)
    for name, module in list(lm.model.named_modules()):
        if isinstance(module, Conv1D):
            num_inputs, num_outputs = module.weight.shape
            linear = nn.Linear(num_inputs, num_outputs)
            linear.weight.data, linear.bias.data = module.weight.data.T.contiguous(), module.bias.data
            parent, _, own = name.rpartition(".")
            setattr(lm.model.get_submodule(parent), own, linear)
    return lm


@pytest.mark.parametrize("pruner", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("structure", ["unstructured", "2:4"])
@pytest.mark.parametrize("redistribution", ["natural", "importance", "compensated"])
def test_conv1d_is_pruned_and_unlearned_as_the_same_linear_would_be(pruner, structure, redistribution, make, few):
    ours = make("gpt2", TAKEN["gpt2"])
    reference = with_linears(ours)
    options = {"max_steps": 2, "lr": 1e-3, "batch_size": 3, "objective": "grad_diff", "stop": None}
    for lm in (ours, reference):
        how = PruneParams.model_validate({"pruner": pruner, "structure": structure})
        prune(lm, lm.encode(demo_rows("calibration", seed=0)), how)  # the door takes no linears in GPT-2
        sau.unlearn(lm, few, redistribution=redistribution, **options)
    parameters = dict(reference.model.named_parameters())
    for name, matrix in prunable(ours.model):
        assert torch.equal(matrix.within(ours.mask[matrix.parameter]), reference.mask[f"{name}.weight"])
        torch.testing.assert_close(matrix.weight, parameters[f"{name}.weight"], rtol=1e-3, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
def test_each_expert_is_pruned_by_what_it_sees(kind, make):
    """Reference: the first layer's experts one by one, on the hidden states and routes of plain forward passes."""
    lm = make(kind, TAKEN[kind])
    sequences = lm.encode(demo_rows("calibration", seed=0))
    sau.prune(lm, demo_rows("calibration", seed=0), pruner="wanda")
    seen = []
    experts = lm.model.model.layers[0].mlp.experts
    handle = experts.register_forward_pre_hook(lambda _, args: seen.append(args[:2]))
    for sequence in sequences:
        lm.model(input_ids=torch.tensor([sequence.input_ids]), use_cache=False)
    handle.remove()
    dense = make(kind, TAKEN[kind]).model.model.layers[0].mlp.experts
    hidden, routes = (torch.cat(part) for part in zip(*seen, strict=True))
    for expert in range(4):
        inputs = hidden[(routes == expert).any(1)]
        for name in ("gate_up_proj", "down_proj"):
            full, pruned = getattr(dense, name)[expert], getattr(experts, name)[expert]
            full, pruned = (full.T, pruned.T) if dense.is_transposed else (full, pruned)
            kept = keep_highest(
                wanda_score(full, inputs.double().square().sum(0)), structure="unstructured", sparsity=0.5
            )
            assert ((pruned != 0) == kept).float().mean() > 0.998
            bias = experts.gate_up_proj_bias[expert] if dense.has_bias else 0.0
            inputs = experts._apply_gate(inputs @ pruned.T + bias) if name == "gate_up_proj" else inputs


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
@pytest.mark.parametrize("pruner", ["magnitude", "sparsegpt"])
def test_experts_in_groups_of_their_inputs(kind, pruner, make):
    lm = make(kind, TAKEN[kind])
    sau.prune(lm, demo_rows("calibration", seed=0), pruner=pruner, structure="2:4")
    inside = {matrix.name: matrix.within(lm.mask[matrix.parameter]) for _, matrix in prunable(lm.model)}
    assert sum("experts" in name for name in inside) == 16
    check_structure(inside, "2:4")


def test_routers_move_where_that_is_asked_for(make, few):
    lm = make("mixtral", TAKEN["mixtral"])
    routers = {name: parameter.detach().clone() for name, parameter in uncovered(lm.model, None).items()}
    assert [name.rpartition(".mlp.")[2] for name in routers] == ["gate.weight"] * 2
    sau.prune(lm, few.retain, pruner="magnitude")
    sau.unlearn(lm, few, max_steps=1, lr=1e-3, objective="npo", stop=None, freeze_uncovered=False)
    assert not any(torch.equal(lm.model.get_parameter(name), before) for name, before in routers.items())


def test_an_expert_that_no_calibration_row_reaches_is_named(make):
    lm = make("mixtral", EXPERTS | {"num_local_experts": 64})
    with pytest.raises(SparsityError, match=r"experts\.gate_up_proj\[\d+\]: saw no calibration token"):
        sau.prune(lm, demo_rows("calibration", seed=0)[:1], pruner="wanda")


def test_experts_do_not_fade(make, few):
    lm = make("mixtral", TAKEN["mixtral"])
    dense = copy.deepcopy(lm.model)
    sau.prune(lm, few.retain, pruner="magnitude")
    lm.model = dense
    with pytest.raises(SparsityError, match="fused experts cannot fade"):
        sau.unlearn(lm, few, max_steps=3, fade_steps=2, order="unlearn-prune", objective="npo", stop=None)


def test_linears_that_read_flattened_tokens_see_no_padding(make):
    """OPT's second half of a block reads [B * T, I]: pruned in batches as one sequence at a time."""
    lm, alone = make("opt", TAKEN["opt"]), make("opt", TAKEN["opt"])
    rows = demo_rows("calibration", seed=0)[:4]
    assert collate(lm.encode(rows)).attention_mask_BT.eq(0).any()
    sau.prune(lm, rows, pruner="wanda")
    sequences = alone.encode(rows)
    fc1 = alone.model.model.decoder.layers[0].fc1
    for _, matrix in list(prunable(alone.model))[:4]:  # the attention before it
        matrix.weight.data.masked_fill_(~lm.mask[matrix.parameter], 0.0)
    seen: list[torch.Tensor] = []
    handle = fc1.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    for sequence in sequences:
        logits(alone.model, sequence)
    handle.remove()
    squares = torch.cat(seen).double().square().sum(0)
    kept = keep_highest(wanda_score(fc1.weight, squares), structure="unstructured", sparsity=0.5)
    assert (lm.mask["model.decoder.layers.0.fc1.weight"] == kept).float().mean() > 0.998


def test_a_shared_expert_as_wide_as_there_are_experts_is_no_router(make):
    lm = make("qwen2_moe", EXPERTS | {"num_experts": 16, "shared_expert_intermediate_size": 16})
    shared = {name.rpartition(".mlp.")[2] for name, _ in prunable(lm.model) if "shared" in name}
    assert shared == {f"shared_expert.{part}_proj" for part in ("gate", "up", "down")}
