from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from pipeline.errors import DataError
from pipeline.statistics import Interval, auroc, delong_paired
from pipeline.statistics.auroc import midranks

REFERENCE = Path(__file__).parents[2] / "../shared/reference/isnet/eval.npz"

# Few distinct scores, so that ties are common; at least two of each class.
samples = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), min_size=4, max_size=40).filter(
    lambda rows: 2 <= sum(row[2] for row in rows) <= len(rows) - 2
)


def structural_components(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeLong's definition: compare every positive with every negative."""
    gap = scores[labels][:, None] - scores[~labels][None]
    wins = (gap > 0) + 0.5 * (gap == 0)
    return wins.mean(axis=1), wins.mean(axis=0)


def columns(rows: list[tuple[int, int, bool]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a, b, labels = zip(*rows, strict=True)
    return np.array(a, dtype=float), np.array(b, dtype=float), np.array(labels)


@settings(deadline=None)
@given(samples)
def test_area_equals_sklearn_and_width_equals_delongs_definition(rows):
    scores, _, labels = columns(rows)
    found = auroc(scores, labels)
    assert found.value == pytest.approx(roc_auc_score(labels, scores))
    positive, negative = structural_components(scores, labels)
    variance = positive.var(ddof=1) / len(positive) + negative.var(ddof=1) / len(negative)
    reach = stats.norm.ppf(0.975) * math.sqrt(variance)
    assert found.lower == pytest.approx(max(0, found.value - reach), abs=1e-9)
    assert found.upper == pytest.approx(min(1, found.value + reach), abs=1e-9)
    assert found.n == len(rows)


@settings(deadline=None)
@given(samples)
def test_reversed_scores_mirror_the_interval(rows):
    scores, _, labels = columns(rows)
    found, mirrored = auroc(scores, labels), auroc(-scores, labels)
    assert mirrored[:3] == pytest.approx((1 - found.value, 1 - found.upper, 1 - found.lower), abs=1e-9)


@settings(deadline=None)
@given(samples)
def test_paired_p_value_equals_the_covariance_form(rows):
    a, b, labels = columns(rows)
    parts = [structural_components(each, labels) for each in (a, b)]
    covariance = sum(np.cov(np.stack(pair)) / len(pair[0]) for pair in zip(*parts, strict=True))
    difference = parts[0][0].mean() - parts[1][0].mean()
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    found = delong_paired(a, b, labels)
    assert found == delong_paired(b, a, labels)
    if variance > 1e-12:
        assert found == pytest.approx(2 * stats.norm.sf(abs(difference) / math.sqrt(variance)), abs=1e-6)
    else:
        assert found == (1.0 if abs(difference) < 1e-12 else 0.0)


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_midranks_equal_scipy(values):
    assert np.array_equal(midranks(np.array(values)), stats.rankdata(values))


def test_the_interval_covers_the_true_area_as_often_as_it_says():
    rng = np.random.default_rng(0)
    labels = np.arange(120) < 50
    truth = stats.norm.cdf(1 / math.sqrt(2))
    intervals = [auroc(rng.normal(size=120) + labels, labels, 0.9) for _ in range(600)]
    coverage = np.mean([each.lower <= truth <= each.upper for each in intervals])
    assert 0.86 < coverage < 0.94


def test_the_paired_test_is_uniform_when_both_scores_are_equally_good():
    rng = np.random.default_rng(0)
    labels = np.arange(120) < 50
    p = []
    for _ in range(400):
        shared = labels + rng.normal(size=120)
        p.append(delong_paired(shared + rng.normal(size=120), shared + rng.normal(size=120), labels))
    assert stats.kstest(p, "uniform").pvalue > 0.01


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], []])
def test_an_absent_class_gives_nan(labels):
    found = auroc(np.arange(len(labels)), np.array(labels))
    assert found.n == len(labels)
    assert all(math.isnan(figure) for figure in found[:3])
    assert math.isnan(delong_paired(np.arange(len(labels)), np.arange(len(labels)), np.array(labels)))


def test_a_nan_score_gives_nan():
    scores = np.array([0.1, np.nan, 0.3, 0.4])
    assert math.isnan(auroc(scores, np.array([0, 1, 0, 1])).value)
    assert math.isnan(delong_paired(np.arange(4), scores, np.array([0, 1, 0, 1])))


def test_one_positive_leaves_the_bounds_open():
    assert auroc(np.array([3, 1, 2, 4]), np.array([1, 0, 0, 0])) == Interval(pytest.approx(2 / 3), 0.0, 1.0, 4)


def test_perfect_and_useless_scores():
    labels = np.array([0, 0, 1, 1])
    assert auroc(np.array([1, 2, 3, 4]), labels) == Interval(1.0, 1.0, 1.0, 4)
    assert auroc(np.zeros(4), labels) == Interval(0.5, 0.5, 0.5, 4)
    assert delong_paired(np.zeros(4), np.ones(4), labels) == 1.0


def test_an_overwhelming_difference_has_a_tiny_p_value_not_zero():
    rng = np.random.default_rng(0)
    labels = np.arange(2000) < 1000
    p = delong_paired(rng.normal(size=2000) + 1.5 * labels, rng.normal(size=2000), labels)
    assert 0 < p < 1e-50


def test_wrong_inputs_are_named():
    with pytest.raises(DataError, match="scores has 3, labels has 2"):
        auroc(np.arange(3), np.array([0, 1]))
    with pytest.raises(DataError, match="labels must be a row of 0 and 1.*2"):
        auroc(np.arange(3), np.array([0, 1, 2]))


@pytest.mark.real_data
def test_the_published_implementation_agrees():
    if not REFERENCE.exists():
        pytest.skip(f"needs the reference numbers at {REFERENCE}")
    reference = np.load(REFERENCE)
    confidence = 2 * stats.norm.cdf(1) - 1  # the interval then reaches one standard error to either side
    for name in "12":
        found = auroc(reference["p" + name], reference["y"], confidence)
        assert found.value == pytest.approx(float(reference["auc" + name]), abs=1e-12)
        assert (found.upper - found.value) ** 2 == pytest.approx(float(reference["var" + name]), rel=1e-9)
    p = delong_paired(reference["p1"], reference["p2"], reference["y"])
    assert math.log10(p) == pytest.approx(reference["log10p"].item(), rel=1e-9)
