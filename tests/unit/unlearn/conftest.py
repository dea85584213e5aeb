"""The unlearning run as its tests start it."""

import copy

import pytest

from sau.unlearn.unlearn import UnlearnParams, unlearn


@pytest.fixture(scope="session")
def params():
    """Parameters of a short run that no stop rule ends, with changes."""
    base = {"objective": "npo", "redistribution": "none", "lr": 1e-3, "max_steps": 4, "batch_size": 8, "stop": None}
    return lambda **changes: UnlearnParams(**{**base, **changes})


@pytest.fixture(scope="session")
def loop(sets):
    """Unlearns the forget rows."""

    def run(lm, parameters, *, seed=0, **options):
        return unlearn(lm, sets, parameters, seed=seed, num_threads=1, **options)

    return run


@pytest.fixture
def fading(trained, pruned):
    """A copy that is not pruned yet, but it is known what will go."""
    lm = copy.deepcopy(trained)
    lm.mask = pruned.mask
    return lm
