from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from pipeline.concepts.estimators import ridge


def problem(count: int, dimension: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.random(count) < 0.25
    features = generator.standard_normal((count, dimension)) @ generator.standard_normal((dimension, dimension))
    features[labels, :3] += 1.5
    return (features - features.mean(0)) / features.std(0), labels


@pytest.mark.parametrize("shape", [(120, 9), (30, 80)], ids=["more samples", "more dimensions"])
@pytest.mark.parametrize("penalty", [1e-2, 1.0, 1e3])
def test_the_closed_form_is_the_regression_of_the_library(shape, penalty):
    features, labels = problem(*shape)
    expected = RidgeClassifier(alpha=penalty, class_weight="balanced", solver="cholesky").fit(features, labels)
    found = ridge.fit(features, labels, penalty)
    np.testing.assert_allclose(found.weights, expected.coef_.ravel(), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(found.intercept, expected.intercept_[0], rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", [(150, 20), (60, 90)], ids=["more samples", "more dimensions"])
def test_the_chosen_penalty_is_that_of_fifty_separate_fits(shape, seed):
    features, labels = problem(*shape, seed)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    search = GridSearchCV(
        RidgeClassifier(class_weight="balanced"), {"alpha": list(ridge.PENALTIES)}, scoring="balanced_accuracy",
        cv=folds,
    )  # fmt: skip
    assert ridge.choose(features, labels, seed) == search.fit(features, labels).best_params_["alpha"]


def test_of_equal_penalties_the_largest_is_chosen_and_one_positive_gets_the_default():
    features, labels = problem(60, 5)
    features[labels] += 50
    assert ridge.choose(features, labels, 0) == max(ridge.PENALTIES) == 1e4
    assert ridge.choose(features, np.arange(60) < 1, 0) == ridge.PENALTY
