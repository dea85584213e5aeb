"""The registry: an unknown component, key or value is refused by name, with what is allowed."""

import pytest

from sau.errors import ConfigError
from sau.registry import build
from sau.unlearn.objectives.base import Objective
from sau.verify.metrics.base import PACKAGE, Metric


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("pdu", "eps: Field required"),
        ({"name": "npo", "beta": 0}, "beta: Input should be greater than 0"),
        ({"name": "npo", "betta": 1}, "betta: Extra inputs"),
        ("nop", "did you mean 'npo'"),
    ],
)
def test_refusals_name_key_and_bound(config, message):
    with pytest.raises(ConfigError, match=message):
        build(Objective, "sau.unlearn.objectives", config)


def test_an_unknown_metric_is_named():
    with pytest.raises(ConfigError, match="did you mean 'mia_min_k'"):
        build(Metric, PACKAGE, "mia_mink")
