"""A model to prune, and the rows to do it with."""

import copy

import pytest

from sau.data.demo import demo_rows


@pytest.fixture(scope="session")
def rows():
    """Calibration rows."""
    return demo_rows("calibration", seed=3)


@pytest.fixture
def lm(dense):
    """The dense model as a copy that a test may change."""
    return copy.deepcopy(dense)
