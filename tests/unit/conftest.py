"""The small models that tests of several rooms share: each made once per process, and checked at its end."""

import copy

import pytest
import torch

from sau.data.demo import demo_rows
from sau.data.sets import Sets
from sau.models.sources import ModelParams, TinyParams, base_model
from sau.pruners import PruneParams, prune
from sau.training.finetune import FinetuneParams, finetune


@pytest.fixture(scope="session")
def tiny():
    """Makes a new model that has learned nothing."""

    def make(seed=0, *, vocab_size=320, hidden_size=32, intermediate_size=64, num_layers=2):
        shape = TinyParams(
            vocab_size=vocab_size, hidden_size=hidden_size, intermediate_size=intermediate_size,
            num_layers=num_layers, num_heads=2,
        )  # fmt: skip
        return base_model(ModelParams(tiny=shape), seed=seed)

    return make


@pytest.fixture(scope="session")
def weights():
    """A copy of a model's parameters, by name."""

    def copied(lm):
        return {name: parameter.detach().clone() for name, parameter in lm.model.named_parameters()}

    return copied


@pytest.fixture(scope="session")
def same():
    """Whether two such copies are equal."""

    def equal(a, b):
        return all(torch.equal(a[name], b[name]) for name in a)

    return equal


@pytest.fixture(scope="session")
def lend(weights, same):
    """Lends a model to many tests, and fails at the end if one of them has changed it; they are to take a copy."""

    def lending(lm):
        before, mask = weights(lm), lm.mask
        yield lm
        assert same(before, weights(lm)), "a test has changed a model that others use"
        assert lm.mask is mask, "a test has changed the mask of a model that others use"

    return lending


@pytest.fixture(scope="session")
def dense(tiny, lend):
    """A model that has learned nothing, to be pruned."""
    yield from lend(tiny(intermediate_size=48))


@pytest.fixture(scope="session")
def sets():
    """Twenty rows of one person each, to forget, to retain and never seen."""
    return Sets(*(demo_rows(name, seed=1) for name in ("forget", "retain", "holdout")))


@pytest.fixture(scope="session")
def trained(tiny, lend, sets):
    """A dense model that knows the forget and the retain rows."""
    lm = tiny()
    rows = sets.forget + sets.retain
    finetune(lm, lm.encode(rows), FinetuneParams(epochs=12, lr=0.005), seed=0, num_threads=1)
    yield from lend(lm)


@pytest.fixture(scope="session")
def pruned(trained, lend, sets):
    """The trained model without half of its weights."""
    lm = copy.deepcopy(trained)
    prune(lm, lm.encode(sets.retain), PruneParams(pruner="wanda"))
    yield from lend(lm)


@pytest.fixture
def lm(pruned):
    """The pruned model as a copy that a test may change."""
    return copy.deepcopy(pruned)
