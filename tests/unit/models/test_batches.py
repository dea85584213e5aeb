"""Batches: cut where padding is saved, with the same logits."""

import torch

from sau.models.batches import Batch, Encoded, collate
from sau.models.scoring import logits_of, targets_of


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
def test_a_cut_batch_has_the_same_logits(small):
    model = small("llama")
    sequences = [Encoded(tuple(i % 60 + 2 for i in range(n)), n // 2) for n in (6, 70, 8, 75, 9)]
    assert len(collate(sequences).parts()) > 1
    alone = torch.cat([logits_of(model, collate([sequence])) for sequence in sequences])
    torch.testing.assert_close(logits_of(model, collate(sequences)), alone, rtol=1e-4, atol=1e-5)
