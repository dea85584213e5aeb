"""From batches to the logits of answer tokens, for several families of models."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sau.models.batches import Batch, Encoded, collate
from sau.models.packing import packs
from sau.models.scoring import answer_logps, logits_of, passes, targets_of, token_logps

SEQUENCES = [Encoded(tuple(range(3, 3 + n)), prompt) for n, prompt in ((9, 4), (14, 6), (5, 2))]


def small(family: str, **options):
    """A random model with weights large enough that its logits differ."""
    config = AutoConfig.for_model(
        family,
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **options,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).float().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.3)
    return model


# gemma2 and cohere change logits after the head; gpt2 learns positions; gpt_neox names its head otherwise.
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2", "cohere"])
@torch.no_grad()
def test_logits_at_answer_tokens_are_those_of_the_whole_sequence(family):
    model, batch = small(family), collate(SEQUENCES)
    whole_BTV = model(batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
    expected = torch.cat([whole_BTV[b, s.prompt_length - 1 : len(s.input_ids) - 1] for b, s in enumerate(SEQUENCES)])
    torch.testing.assert_close(logits_of(model, batch), expected, rtol=1e-5, atol=1e-5)
    assert targets_of(batch).tolist() == [t for s in SEQUENCES for t in s.input_ids[s.prompt_length :]]
    assert model(batch.input_ids_BT).logits.shape[:2] == batch.input_ids_BT.shape  # the model is as it was


def test_batches_are_cut_where_padding_is_saved():
    sequences = [Encoded(tuple(range(2, 2 + n)), 1) for n in (10, 12, 14, 60, 62, 61, 15, 200)]
    parts = collate(sequences).parts()
    assert [tuple(part.input_ids_BT.shape) for part in parts] == [(3, 14), (4, 62), (1, 200)]
    assert torch.equal(torch.cat([targets_of(part) for part in parts]), targets_of(collate(sequences)))
    even = collate(sequences[3:6])
    assert [part.input_ids_BT.shape for part in even.parts()] == [even.input_ids_BT.shape]
    padded = torch.nn.functional.pad
    wider = Batch(
        padded(even.input_ids_BT, (0, 9)), padded(even.attention_mask_BT, (0, 9)), padded(even.answer_mask_BT, (0, 9))
    )
    assert torch.equal(wider.parts()[0].input_ids_BT, even.input_ids_BT)


@torch.no_grad()
def test_a_cut_batch_has_the_same_logits():
    model = small("llama")
    sequences = [Encoded(tuple(i % 60 + 2 for i in range(n)), n // 2) for n in (6, 70, 8, 75, 9)]
    assert len(collate(sequences).parts()) > 1
    alone = torch.cat([logits_of(model, collate([sequence])) for sequence in sequences])
    torch.testing.assert_close(logits_of(model, collate(sequences)), alone, rtol=1e-4, atol=1e-5)


# gpt2 and opt learn positions; cohere interleaves them.
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gpt2", "gpt_neox", "opt", "cohere"])
def test_sequences_packed_in_a_row_have_the_logits_and_gradients_of_padded_ones(family):
    model, batch = small(family, sliding_window=None), collate(SEQUENCES)
    assert packs(model)
    ((one,), found) = passes(model, batch, packed=True), []
    assert one.answer_BT.shape == (1, 9 + 14 + 5 - 3)
    for packed in (False, True):
        model.zero_grad()
        logits_NV = logits_of(model, batch, packed=packed)
        token_logps(logits_NV, targets_of(batch)).sum().backward()
        found.append([logits_NV, *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)
    assert model.config._attn_implementation == "sdpa"


# Recurrence; a convolution beside attention; windows; capped scores; alibi; experts, whose products depend on who else
# is routed to them.
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("mamba", {}),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}),
        ("mistral", {"sliding_window": 4}),
        ("gemma2", {}),
        ("bloom", {}),
        ("qwen3_moe", {}),
    ],
)
@torch.no_grad()
def test_what_cannot_be_packed_is_padded(family, options):
    model, batch = small(family, **options), collate(SEQUENCES)
    assert not packs(model)
    assert [one.answer_BT.shape for one in passes(model, batch, packed=True)] == [batch.answer_mask_BT.shape]
    assert torch.equal(logits_of(model, batch, packed=True), logits_of(model, batch))


@torch.no_grad()
def test_a_model_whose_sequences_see_each_other_does_not_pack():
    model = small("llama")
    heard = model.model.layers[0].register_forward_hook(lambda _m, _a, output: output + 1e-7 * output.mean())
    assert not packs(model)  # the trial is exact: what leaks is far below any tolerance
    heard.remove()
    assert not packs(model)  # and made once
    assert packs(small("llama"))


@torch.no_grad()
def test_rows_of_one_length_are_not_packed():
    model = small("llama")
    batch = collate([SEQUENCES[0], SEQUENCES[0]])
    assert [one.answer_BT.shape for one in passes(model, batch, packed=True)] == [batch.answer_mask_BT.shape]


@torch.no_grad()
def test_answer_logps_come_in_the_order_given_whatever_the_batches():
    model = small("llama")
    for batch_size in (1, 2, 3):
        for sequence, logp_T in zip(SEQUENCES, answer_logps(model, SEQUENCES, batch_size=batch_size), strict=True):
            batch = collate([sequence])
            torch.testing.assert_close(logp_T, token_logps(logits_of(model, batch), targets_of(batch)))
            assert len(logp_T) == sequence.num_answer_tokens
