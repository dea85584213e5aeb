"""Reading a model: against naive computations, whatever the batch."""

import pytest
import torch

from sau.data.demo import demo_rows
from sau.errors import DataError
from sau.models.batches import Encoded
from sau.verify.evidence.likelihoods import mean_logps, sum_logps
from sau.verify.evidence.readings import read, score_tokens


@pytest.fixture(scope="module")
def lm(tiny, lend):
    yield from lend(tiny(3, vocab_size=512))


def test_token_scores_equal_a_naive_computation(lm):
    rows = demo_rows("someone", seed=5)[:3]
    encoded = lm.encode(rows)
    for sequence, scores in zip(encoded, score_tokens(lm, encoded, batch_size=2), strict=True):
        with torch.no_grad():
            logp_TV = lm.model(torch.tensor([sequence.input_ids])).logits[0].log_softmax(-1).double()
        for t in range(sequence.num_answer_tokens):
            row_V = logp_TV[sequence.prompt_length - 1 + t]
            target = sequence.input_ids[sequence.prompt_length + t]
            mean = (row_V.exp() * row_V).sum()
            assert scores.logp_T[t] == pytest.approx(float(row_V[target]), abs=1e-4)
            assert scores.correct_T[t] == (int(row_V.argmax()) == target)
            assert scores.mean_T[t] == pytest.approx(float(mean), abs=1e-4)
            assert scores.std_T[t] == pytest.approx(float((row_V.exp() * (row_V - mean) ** 2).sum().sqrt()), abs=1e-4)


def test_a_reading_does_not_depend_on_the_batch(lm):
    rows = demo_rows("someone", seed=5)
    small, large = read(lm, rows, batch_size=3), read(lm, rows, batch_size=20)
    for one, other in zip(small.answer, large.answer, strict=True):
        assert one.logp_T == pytest.approx(other.logp_T, abs=1e-4)
    assert mean_logps(lm, lm.encode(rows)) == pytest.approx([a.logp_T.mean() for a in small.answer], abs=1e-4)
    assert sum_logps(lm, lm.encode(rows)) == pytest.approx([a.logp_T.sum() for a in small.answer], abs=1e-3)


def test_truth_parts_put_the_true_answer_first(lm):
    rows = demo_rows("someone", seed=5)[:2]
    truth = read(lm, rows, frozenset({"truth_ratio"})).truth
    true = mean_logps(lm, lm.encode(rows, answer="paraphrased_answer"))
    assert [t[0] for t in truth] == pytest.approx(true, abs=1e-4)
    assert [len(t) for t in truth] == [6, 6]


def test_gradient_norm_equals_a_naive_one(lm):
    rows = demo_rows("someone", seed=5)[:1]
    norm = read(lm, rows, frozenset({"gradient"})).gradient[0]
    sequence = lm.encode(rows)[0]
    ids = torch.tensor([sequence.input_ids])
    labels = ids.clone()
    labels[0, : sequence.prompt_length] = -100
    lm.model.zero_grad()
    lm.model(input_ids=ids, labels=labels).loss.backward()
    expected = sum(float(p.grad.square().sum()) for p in lm.model.parameters()) ** 0.5
    lm.model.zero_grad()
    assert norm == pytest.approx(expected, rel=1e-3)


def test_generated_answers_are_scored(lm):
    rows = demo_rows("someone", seed=5)[:1]
    assert 0.0 <= read(lm, rows, frozenset({"rouge"})).rouge[0] <= 1.0


def test_no_answer_tokens_is_an_error(lm):
    with pytest.raises(DataError, match="1 of 1 sequences have no answer token"):
        score_tokens(lm, [Encoded((5, 6), 2)])
