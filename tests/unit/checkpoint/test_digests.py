"""Digests: the same weights in two roles."""

import pytest

from sau.checkpoint.digests import check_distinct
from sau.errors import ModelError


def test_the_same_weights_in_two_roles_are_refused():
    check_distinct({})
    check_distinct({"before": "a1", "reference": "b2"})
    with pytest.raises(ModelError, match=r"before and reference have the same weights, digest a1"):
        check_distinct({"before": "a1", "dense": "b2", "reference": "a1"})
