"""Metrics against values worked out by hand, and their edge cases."""

import math

import numpy as np
import pytest
from scipy.stats import ks_2samp

from sau.errors import DataError, DivergedError
from sau.registry import build, discover
from sau.verify.evidence.readings import Reading, TokenScores, rouge_l_recall
from sau.verify.metrics.base import PACKAGE, MembershipMetric, Metric, ModelMetric, RecordMetric
from sau.verify.metrics.extraction_strength import extraction_strength
from sau.verify.metrics.forget_quality import ForgetQuality, log10_ks
from sau.verify.metrics.mia_min_k import MiaMinK, lowest_mean
from sau.verify.metrics.mia_min_k_pp import MiaMinKPlusPlus
from sau.verify.metrics.model_utility import ModelUtility, harmonic_mean
from sau.verify.metrics.privleak import PrivLeak, privleak
from sau.verify.metrics.truth_ratio import TruthRatio


def tokens(logps, correct=None, mean=None, std=None):
    n = len(logps)
    return TokenScores(
        np.array(logps, dtype=float),
        np.array([True] * n if correct is None else correct, dtype=bool),
        np.full(n, -1.0 if mean is None else mean),
        np.full(n, 1.0 if std is None else std),
    )


def reading(*answers, zlib=None, **parts):
    sizes = np.array([10.0] * len(answers) if zlib is None else zlib)
    return Reading(tuple(tokens(a) if isinstance(a, list) else a for a in answers), sizes, "x", **parts)


def value(name, *args, **kwargs):
    return build(Metric, PACKAGE, name).value(*args, **kwargs)


# -- record metrics -----------------------------------------------------------------------------


def test_probability_is_the_geometric_mean_per_token():
    its = reading([math.log(0.5), math.log(0.125)], [0.0])
    assert value("probability", its, "forget") == pytest.approx((0.25 + 1.0) / 2)


@pytest.mark.parametrize(
    ("correct", "expected"),
    [
        ([True, True, True, True], 1.0),
        ([False, True, True, True], 0.75),
        ([True, True, False, True], 0.25),
        ([True, True, True, False], 0.0),  # not 1/n: the last token is wrong, so nothing was extracted
        ([False], 0.0),
        ([True], 1.0),
    ],
)
def test_extraction_strength(correct, expected):
    assert extraction_strength(np.array(correct)) == expected


def test_exact_memorization_is_the_share_of_right_tokens():
    its = reading(tokens([-1, -1], [True, False]), tokens([-1], [True]))
    assert value("exact_memorization", its, "forget") == pytest.approx((0.5 + 1.0) / 2)


def test_truth_ratio_by_hand():
    # true answer p = 0.5 per token; false ones 0.25 and 1.0: geometric mean 0.5, so R = 1. Second row: R = 4.
    its = reading([0.0], [0.0], truth=(np.log([0.5, 0.25, 1.0]), np.log([0.125, 0.5])))
    assert TruthRatio().per_record(its) == pytest.approx([1.0, 4.0])
    assert TruthRatio().value(its, "forget") == pytest.approx((1.0 + 0.25) / 2)
    assert TruthRatio().value(its, "retain") == pytest.approx(0.0)
    assert TruthRatio().value(reading([0.0], truth=(np.log([0.5, 0.125]),)), "retain") == pytest.approx(0.75)


def test_truth_ratio_survives_extremes():
    its = reading([0.0], truth=(np.array([0.0, -5000.0]),))
    assert TruthRatio().value(its, "forget") == pytest.approx(0.0, abs=1e-300)


def test_truth_ratio_without_false_answers_is_an_error_not_a_number():
    with pytest.raises(DataError, match="no false answers"):
        value("truth_ratio", reading([0.0]), "forget")
    with pytest.raises(DataError, match="no record"):
        value("truth_ratio", reading([0.0], truth=()), "forget")


def test_rouge_l_recall_by_hand():
    assert rouge_l_recall("the cat sat on the mat", "the cat sat") == 1.0
    assert rouge_l_recall("sat cat the", "the cat sat") == pytest.approx(1 / 3)
    assert rouge_l_recall("he was running", "he runs") == 1.0  # the stemmer makes both `run`
    assert rouge_l_recall("", "the cat") == 0.0
    assert value("rouge_l_recall", reading([0.0], [0.0], rouge=np.array([0.25, 0.75])), "forget") == 0.5


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(DivergedError, match="1 of 2"):
        value("mia_loss", {"forget": reading([bad], [0.0]), "holdout": reading([0.0])})


# -- membership ---------------------------------------------------------------------------------


def test_mia_loss_and_zlib():
    sets = {"forget": reading([-1.0, -3.0], zlib=[4.0]), "holdout": reading([-2.5], [-1.0], zlib=[10.0, 1.0])}
    assert value("mia_loss", sets) == 0.5  # -2 against -2.5 and -1
    assert value("mia_zlib", sets) == 0.5  # -0.5 against -0.25 and -1


def test_mia_reference_subtracts_the_reference():
    sets = {"forget": reading([-1.0]), "holdout": reading([-1.0])}
    reference = {"forget": reading([-3.0]), "holdout": reading([-2.0])}
    assert value("mia_reference", sets, reference) == 1.0
    with pytest.raises(DataError, match="reference"):
        value("mia_reference", sets)


def test_min_k_takes_the_lowest_share_at_least_one():
    values = np.array([-1.0, -4.0, -2.0, -3.0, 0.0])
    assert lowest_mean(values, 0.2) == -4.0
    assert lowest_mean(values, 0.4) == -3.5
    assert lowest_mean(values, 0.01) == -4.0
    assert lowest_mean(values, 1.0) == -2.0
    assert MiaMinK(k=0.5).scores(reading([-1.0, -3.0, -2.0, 0.0])) == pytest.approx([-2.5])


def test_min_k_pp_standardises_by_the_models_own_distribution():
    answer = TokenScores(np.array([-1.0, -5.0]), np.ones(2, bool), np.array([-2.0, -3.0]), np.array([2.0, 0.5]))
    assert MiaMinKPlusPlus(k=1.0).scores(reading(answer)) == pytest.approx([(0.5 - 4.0) / 2])
    certain = tokens([0.0], mean=0.0, std=0.0)  # a spread of 0 must not become NaN
    assert MiaMinKPlusPlus().scores(reading(certain)) == pytest.approx([0.0])


def test_gradnorm_prefers_small_gradients():
    sets = {"forget": reading([0.0], gradient=np.array([0.1])), "holdout": reading([0.0], gradient=np.array([2.0]))}
    assert value("mia_gradnorm", sets) == 1.0


# -- whole models -------------------------------------------------------------------------------


def test_forget_quality_is_the_log_of_the_ks_p():
    first, second = np.array([0.1, 0.4, 0.9, 1.3]), np.array([0.2, 0.5, 2.0, 3.0])
    assert log10_ks(first, second) == pytest.approx(math.log10(ks_2samp(first, second).pvalue))
    assert log10_ks(first, first) == 0.0


@pytest.mark.parametrize("n", [5, 10, 20])
def test_forget_quality_floor_is_the_same_for_none_and_for_too_much(n):
    target = np.linspace(0.0, 1.0, n)
    floor = math.log10(2 / math.comb(2 * n, n))
    assert log10_ks(target + 5, target) == pytest.approx(floor)
    assert log10_ks(target - 5, target) == pytest.approx(floor)


def test_forget_quality_needs_the_reference():
    with pytest.raises(DataError, match="reference"):
        ForgetQuality().value({"forget": reading([0.0], truth=(np.zeros(2),))})


def test_privleak_by_hand():
    assert privleak(0.5, 0.5) == 0.0
    assert privleak(1.0, 0.6) == pytest.approx(-100.0)
    assert privleak(0.2, 0.6) == pytest.approx(100.0)
    with pytest.raises(DataError, match="reference"):
        PrivLeak().value({})
    with pytest.raises(DataError, match="AUC is 1"):
        privleak(0.5, 1.0)


def test_harmonic_mean():
    assert harmonic_mean([1.0, 0.5]) == pytest.approx(2 / 3)
    assert harmonic_mean([1.0, 0.0]) == 0.0
    with pytest.raises(DivergedError):
        harmonic_mean([1.0, float("nan")])


def test_model_utility_by_hand():
    retain = reading([math.log(0.5)], truth=(np.log([0.5, 0.25]),), rouge=np.array([1.0]))
    assert ModelUtility().value({"retain": retain}) == pytest.approx(3 / (2 + 2 + 1))


def test_retain_utility_is_relative_to_before():
    after, before = {"retain": reading([math.log(0.3)])}, {"retain": reading([math.log(0.6)])}
    assert value("retain_utility", after, before) == pytest.approx(0.5)


# -- statistics ---------------------------------------------------------------------------------


# -- reading a model ----------------------------------------------------------------------------


# -- the catalogue ------------------------------------------------------------------------------


def test_every_metric_declares_its_direction_and_aggregation():
    found = discover(Metric, PACKAGE)
    assert len(found) >= 15
    for metric in found.values():
        assert metric.better in ("higher", "lower", "closer_to_retrain")
        assert metric.aggregation
        assert issubclass(metric, RecordMetric | MembershipMetric | ModelMetric)
        if issubclass(metric, MembershipMetric):
            assert metric.better == "closer_to_retrain"
