from __future__ import annotations

import numpy as np
import pytest

from pipeline.concepts.estimators import ESTIMATORS, estimate
from pipeline.concepts.estimators.linear import Linear, Standardized, class_weights, sample_weights


def test_features_are_standardized_and_stay_as_they_are():
    features = np.random.default_rng(0).standard_normal((50, 3)) * [1, 10, 1e-3] + [5, 0, 1]
    before = features.copy()
    scaled = Standardized.of(features)
    np.testing.assert_allclose(scaled.features.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled.features.std(0), 1)
    np.testing.assert_allclose(scaled.features * scaled.spread + scaled.center, features)
    assert np.array_equal(features, before)


def test_a_column_whose_mean_is_rounded_is_exactly_zero():
    features = np.stack([np.full(331, 0.1), np.arange(331.0)], 1)
    assert (Standardized.of(features).features[:, 0] == 0).all()


def test_a_filter_decides_the_same_in_both_coordinates():
    generator = np.random.default_rng(1)
    features = generator.standard_normal((40, 4)) * [1, 100, 0.01, 3] + 7
    scaled = Standardized.of(features)
    inner = Linear(generator.standard_normal(4), 0.3)
    outer = scaled.filter_back(inner)
    np.testing.assert_allclose(
        features @ outer.weights + outer.intercept, scaled.features @ inner.weights + inner.intercept
    )
    assert scaled.filter_back(Linear(inner.weights)).intercept is None


def test_both_groups_weigh_half_of_all_samples():
    labels = np.arange(10) < 2
    assert class_weights(labels) == (10 / 16, 10 / 4)
    weights = sample_weights(labels)
    assert weights[labels].sum() == weights[~labels].sum() == 5


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize("search", [False, True])
def test_no_estimator_changes_its_inputs(kind, search):
    generator = np.random.default_rng(0)
    features, labels = generator.standard_normal((40, 6)), np.arange(40) < 12
    features[labels] += 1
    before = features.copy()
    first = estimate(features, labels, kind, search=search)
    assert np.array_equal(features, before) and labels.sum() == 12
    second = estimate(features, labels, kind, search=search)
    assert np.array_equal(first.weights, second.weights) and first.intercept == second.intercept
    assert (first.intercept is None) == (ESTIMATORS[kind].role == "pattern")
