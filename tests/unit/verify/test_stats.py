"""Statistics against values worked out by hand."""

import numpy as np
import pytest

from sau.verify.stats import auc, clopper_pearson, holm, p_against, tost_power


def test_auc_counts_ties_half():
    assert auc(np.array([1.0, 2.0]), np.array([0.0])) == 1.0
    assert auc(np.array([0.0]), np.array([0.0, 0.0])) == 0.5
    assert auc(np.array([0.0, 1.0]), np.array([0.0, 2.0])) == pytest.approx((0.5 + 0 + 1 + 0) / 4)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_clopper_pearson_of_no_leak():
    assert clopper_pearson(0, 60, 0.05) == (0.0, pytest.approx(1 - 0.05 ** (1 / 60)))
    assert clopper_pearson(0, 300, 0.05)[1] == pytest.approx(0.00994, abs=1e-4)
    assert clopper_pearson(5, 5, 0.05)[1] == 1.0


def test_bootstrap_p_is_never_zero():
    draws = np.ones(999)
    assert p_against(draws, 0.0) == pytest.approx(2 / 1000)
    assert p_against(draws, 1.0) == 1.0


def test_tost_power_grows_with_precision():
    assert tost_power(-0.2, 0.2, 0.05, 0.05) == pytest.approx(0.9818, abs=1e-3)
    assert tost_power(-0.2, 0.2, 0.2, 0.05) == 0.0
