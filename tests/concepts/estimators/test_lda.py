from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

from pipeline.concepts.estimators import lda


def problem(count: int, dimension: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = generator.random(count) < 0.3
    features = generator.standard_normal((count, dimension)) @ generator.standard_normal((dimension, dimension))
    features[labels, :3] += 2
    features -= features.mean(0)
    means = np.where(labels[:, None], features[labels].mean(0), features[~labels].mean(0))
    return features, labels, features - means


@pytest.mark.parametrize("shape", [(150, 8), (30, 60)], ids=["more samples", "more dimensions"])
def test_the_discriminant_is_the_library_s_shrunk_covariance_on_the_difference_of_means(shape):
    features, labels, residuals = problem(*shape)
    covariance, shrinkage = ledoit_wolf(residuals, assume_centered=True)
    assert 0 < shrinkage < 1
    expected = np.linalg.solve(covariance, features[labels].mean(0) - features[~labels].mean(0))
    found = lda.fit(features, labels)
    np.testing.assert_allclose(found.weights, expected, rtol=1e-6, atol=1e-9)
    ends = features[labels].mean(0) @ found.weights, features[~labels].mean(0) @ found.weights
    np.testing.assert_allclose(found.intercept, -sum(ends) / 2)


def test_groups_without_any_spread_are_told_apart_by_their_means():
    features, labels = np.array([[0.0, 1.0]] * 3 + [[1.0, 1.0]] * 3), np.arange(6) > 2
    found = lda.fit(features, labels)
    np.testing.assert_allclose(found.weights, [1, 0])
    np.testing.assert_allclose(features @ found.weights + found.intercept, [-0.5] * 3 + [0.5] * 3)


def test_equal_spread_in_all_directions_is_not_shrunk_below_itself():
    residuals = np.concatenate([np.eye(4), -np.eye(4)]) * 2
    assert lda.ledoit_wolf(residuals, residuals.T @ residuals / 8, 4) == 1.0
