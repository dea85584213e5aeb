"""Packing: sequences in a row give what padded ones give, and models where they would not are padded."""

import pytest
import torch

from sau.models.batches import collate
from sau.models.packing import packs
from sau.models.scoring import logits_of, passes, targets_of, token_logps


# gpt2 and opt learn positions; cohere interleaves them.
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gpt2", "gpt_neox", "opt", "cohere"])
def test_sequences_packed_in_a_row_have_the_logits_and_gradients_of_padded_ones(small, sequences, family):
    model, batch = small(family, sliding_window=None), collate(sequences)
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
def test_what_cannot_be_packed_is_padded(small, sequences, family, options):
    model, batch = small(family, **options), collate(sequences)
    assert not packs(model)
    assert [one.answer_BT.shape for one in passes(model, batch, packed=True)] == [batch.answer_mask_BT.shape]
    assert torch.equal(logits_of(model, batch, packed=True), logits_of(model, batch))


@torch.no_grad()
def test_a_model_whose_sequences_see_each_other_does_not_pack(small):
    model = small("llama")
    heard = model.model.layers[0].register_forward_hook(lambda _m, _a, output: output + 1e-7 * output.mean())
    assert not packs(model)  # the trial is exact: what leaks is far below any tolerance
    heard.remove()
    assert not packs(model)  # and made once
    assert packs(small("llama"))


@torch.no_grad()
def test_rows_of_one_length_are_not_packed(small, sequences):
    model = small("llama")
    batch = collate([sequences[0], sequences[0]])
    assert [one.answer_BT.shape for one in passes(model, batch, packed=True)] == [batch.answer_mask_BT.shape]
