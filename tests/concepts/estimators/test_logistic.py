from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from pipeline.concepts.estimators import logistic


def problem(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.random(120) < 0.25
    features = generator.standard_normal((120, 10))
    features[labels, :3] += 1.0
    return (features - features.mean(0)) / features.std(0), labels


def test_the_gradient_of_the_balanced_objective_vanishes():
    features, labels = problem()
    found = logistic.fit(features, labels, 0.1)
    chance = 1 / (1 + np.exp(-(features @ found.weights + found.intercept)))
    weights = np.where(labels, 120 / (2 * labels.sum()), 120 / (2 * (~labels).sum()))
    residual = weights * (chance - labels)
    np.testing.assert_allclose(found.weights + 0.1 * features.T @ residual, 0, atol=1e-2)
    assert abs(residual.sum()) < 0.05


@pytest.mark.parametrize("seed", range(3))
def test_the_chosen_cost_is_that_of_fifty_separate_fits(seed):
    features, labels = problem(seed)
    search = GridSearchCV(
        LogisticRegression(class_weight="balanced", max_iter=1000), {"C": list(logistic.COSTS)},
        scoring="balanced_accuracy", cv=StratifiedKFold(5, shuffle=True, random_state=seed),
    )  # fmt: skip
    assert logistic.choose(features, labels, seed) == search.fit(features, labels).best_params_["C"]


def test_a_regression_that_needs_more_steps_gives_no_warning(recwarn, monkeypatch):
    features, labels = problem()
    monkeypatch.setattr(logistic, "STEPS", 1)
    assert np.isfinite(logistic.fit(features, labels, 1e4).weights).all() and not recwarn.list


def test_of_equal_costs_the_smallest_is_chosen_and_one_positive_gets_the_default():
    features, labels = problem()
    features[labels] += 30
    assert logistic.choose(features, labels, 0) == min(logistic.COSTS)
    assert logistic.choose(features, np.arange(120) < 1, 0) == logistic.COST
