"""From batches to the logits of answer tokens, for several families of models."""

import pytest
import torch

from sau.models.batches import collate
from sau.models.scoring import answer_logps, logits_of, targets_of, token_logps


# gemma2 and cohere change logits after the head; gpt2 learns positions; gpt_neox names its head otherwise.
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2", "cohere"])
@torch.no_grad()
def test_logits_at_answer_tokens_are_those_of_the_whole_sequence(small, sequences, family):
    model, batch = small(family), collate(sequences)
    whole_BTV = model(batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
    expected = torch.cat([whole_BTV[b, s.prompt_length - 1 : len(s.input_ids) - 1] for b, s in enumerate(sequences)])
    torch.testing.assert_close(logits_of(model, batch), expected, rtol=1e-5, atol=1e-5)
    assert targets_of(batch).tolist() == [t for s in sequences for t in s.input_ids[s.prompt_length :]]
    assert model(batch.input_ids_BT).logits.shape[:2] == batch.input_ids_BT.shape  # the model is as it was


@torch.no_grad()
def test_answer_logps_come_in_the_order_given_whatever_the_batches(small, sequences):
    model = small("llama")
    for batch_size in (1, 2, 3):
        for sequence, logp_T in zip(sequences, answer_logps(model, sequences, batch_size=batch_size), strict=True):
            batch = collate([sequence])
            torch.testing.assert_close(logp_T, token_logps(logits_of(model, batch), targets_of(batch)))
            assert len(logp_T) == sequence.num_answer_tokens
