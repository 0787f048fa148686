from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Lasso

from pipeline.concepts.estimators import lasso
from pipeline.concepts.estimators.linear import sample_weights


def problem(count: int = 120, dimension: int = 15, strength: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = generator.random(count) < 0.25
    features = generator.standard_normal((count, dimension))
    features[labels, :2] += strength
    return (features - features.mean(0)) / features.std(0), labels


@pytest.mark.parametrize("shape", [(120, 15), (40, 90)])
@pytest.mark.parametrize("penalty", [0.01, 0.1])
def test_the_solution_is_the_weighted_lasso_of_the_library(shape, penalty):
    features, labels = problem(*shape)
    expected = Lasso(alpha=penalty, tol=1e-8, max_iter=50_000).fit(
        features, np.where(labels, 1.0, -1.0), sample_weight=sample_weights(labels)
    )
    found = lasso.fit(features, labels, penalty)
    np.testing.assert_allclose(found.weights, expected.coef_, atol=2e-3)
    np.testing.assert_allclose(found.intercept, expected.intercept_, atol=2e-3)


def test_all_weights_vanish_from_the_silencing_penalty_on():
    features, labels = problem()
    least = lasso.silencing_penalty(features, labels)
    assert not lasso.fit(features, labels, least * 1.001).weights.any()
    assert lasso.fit(features, labels, least * 0.99).weights.any()


def test_few_channels_carry_weight():
    features, labels = problem()
    weights = np.abs(lasso.fit(features, labels).weights)
    assert weights[:2].min() > 3 * weights[2:].max() and (weights == 0).sum() >= 3


@pytest.mark.parametrize("strength", [0.0, 0.3, 2.0])
def test_the_chosen_penalty_leaves_some_weight(strength):
    features, labels = problem(60, 5, strength)
    penalty = lasso.choose(features, labels, 0)
    assert penalty < lasso.silencing_penalty(features, labels)
    assert lasso.fit(features, labels, penalty).weights.any()


def test_where_no_penalty_of_the_list_is_small_enough_a_smaller_one_is_taken():
    features, labels = problem(60, 3)
    tiny = features * 1e-7
    penalty = lasso.choose(tiny, labels, 0)
    assert 0 < penalty < 1e-5 and lasso.fit(tiny, labels, penalty).weights.any()


def test_equal_means_leave_nothing():
    features, labels = np.array([[1.0], [-1.0], [1.0], [-1.0]]), np.array([True, True, False, False])
    assert not lasso.fit(features, labels).weights.any()
