"""Models of several families, and sequences to put through them."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sau.models.batches import Encoded


@pytest.fixture(scope="session")
def sequences():
    """Three sequences of different lengths."""
    return [Encoded(tuple(range(3, 3 + n)), prompt) for n, prompt in ((9, 4), (14, 6), (5, 2))]


@pytest.fixture(scope="session")
def small():
    """Makes a random model of a family, with weights large enough that its logits differ."""

    def make(family, **options):
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

    return make
