from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.concepts.estimators.mean import fit as fit_mean
from pipeline.concepts.estimators.median import fit as fit_median
from pipeline.concepts.estimators.pattern import PatternAccumulator, fit


def accumulated(features, targets, cuts=()) -> np.ndarray:
    accumulator = PatternAccumulator()
    for part, target in zip(np.split(features, cuts), np.split(targets, cuts), strict=True):
        accumulator.update(part, target)
    return accumulator.result()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(3, 80), cuts=st.lists(st.integers(0, 80), max_size=5))
def test_the_pattern_is_covariance_over_variance_however_samples_are_cut_into_batches(seed, count, cuts):
    generator = np.random.default_rng(seed)
    features, targets = generator.standard_normal((count, 4)) * [1, 10, 0.1, 5] + 3, generator.standard_normal(count)
    expected = [np.cov(column, targets, ddof=0)[0, 1] / targets.var() for column in features.T]
    found = accumulated(features, targets, sorted(min(cut, count) for cut in cuts))
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)


def test_blocks_within_a_batch_change_nothing(monkeypatch):
    generator = np.random.default_rng(0)
    features, targets = generator.standard_normal((50, 3)), generator.standard_normal(50)
    whole = accumulated(features, targets)
    monkeypatch.setattr("pipeline.concepts.estimators.pattern.BLOCK", 7)
    np.testing.assert_allclose(accumulated(features, targets), whole, rtol=1e-12)


def test_a_large_offset_costs_no_digits():
    generator = np.random.default_rng(0)
    features, targets = generator.integers(-8, 8, (300, 3)).astype(float), generator.standard_normal(300)
    plain = accumulated(features, targets, (100, 200))
    np.testing.assert_allclose(accumulated(features + 2.0**40, targets, (100, 200)), plain, rtol=1e-10)


def test_single_precision_is_summed_in_double():
    generator = np.random.default_rng(0)
    features, labels = generator.standard_normal((2000, 3)).astype(np.float32), generator.random(2000) < 0.1
    found = accumulated(features, labels, (900,))
    assert found.dtype == np.float64
    exact = features.astype(float)
    np.testing.assert_allclose(found, exact[labels].mean(0) - exact[~labels].mean(0), rtol=1e-10)


@pytest.mark.parametrize("estimator", [fit, fit_mean])
def test_a_constant_feature_weighs_exactly_nothing(estimator):
    features = np.stack([np.full(331, 0.1), np.arange(331.0)], 1)
    assert estimator(features, np.arange(331) < 100).weights[0] == 0


def test_targets_that_do_not_differ_have_no_pattern():
    with pytest.raises(ValueError, match="all 4 samples are equal"):
        accumulated(np.eye(4), np.ones(4))


def test_for_labels_mean_and_pattern_are_one_direction():
    generator = np.random.default_rng(0)
    features, labels = generator.standard_normal((90, 5)) + 2, generator.random(90) < 0.3
    expected = features[labels].mean(0) - features[~labels].mean(0)
    np.testing.assert_allclose(fit(features, labels).weights, expected, rtol=1e-9)
    np.testing.assert_allclose(fit_mean(features, labels).weights, expected, rtol=1e-9)


def test_few_odd_samples_do_not_move_the_median():
    generator = np.random.default_rng(0)
    features, labels = generator.standard_normal((101, 3)), np.arange(101) < 31
    features[labels, 0] += 5
    clean = fit_median(features, labels).weights
    np.testing.assert_allclose(clean, np.median(features[:31], 0) - np.median(features[31:], 0))
    features[:3, 1] = 1e6
    spoilt = fit_median(features, labels).weights
    assert np.abs(spoilt - clean).max() < 0.5 < np.abs(fit_mean(features, labels).weights - clean).max()
