from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import LinearSVC

from pipeline.concepts.estimators import svm
from pipeline.concepts.estimators.linear import sample_weights


def problem(count: int, dimension: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.random(count) < 0.2
    features = generator.standard_normal((count, dimension)) @ generator.standard_normal((dimension, dimension))
    features[labels, :3] += 2.0
    return (features - features.mean(0)) / features.std(0), labels


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("shape", [(200, 10), (60, 50), (30, 80)], ids=["more samples", "near", "more dimensions"])
@pytest.mark.parametrize("cost", [1e-5, 1e-2, 1.0, 1e4])
def test_the_gradient_of_the_objective_vanishes(shape, cost):
    features, labels = problem(*shape)
    found = svm.fit(features, labels, cost)
    weights, signs, design = sample_weights(labels), np.where(labels, 1, -1), svm._with_ones(features)
    solution = np.append(found.weights, found.intercept)
    missing = np.maximum(0, 1 - signs * (design @ solution))
    gradient = solution - 2 * cost * design.T @ (weights * signs * missing)
    scale = 2 * cost * np.linalg.norm(design.T @ (weights * signs))
    assert np.linalg.norm(gradient) <= 1e-9 * scale


@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("shape", [(200, 10), (30, 80)], ids=["more samples", "more dimensions"])
@pytest.mark.parametrize("cost", [1e-4, 1e-2, 0.1])
def test_the_solution_is_that_of_the_library(shape, cost, dual):
    features, labels = problem(*shape)
    machine = LinearSVC(C=cost, class_weight="balanced", dual=dual, tol=1e-9, max_iter=200_000, random_state=0)
    machine.fit(features, labels)
    found = svm.fit(features, labels, cost)
    assert cosine(found.weights, machine.coef_.ravel()) > 1 - 1e-8
    np.testing.assert_allclose(np.linalg.norm(found.weights), np.linalg.norm(machine.coef_), rtol=1e-4)
    np.testing.assert_allclose(found.intercept, machine.intercept_[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(150, 12), (60, 80)], ids=["more samples", "more dimensions"])
def test_the_chosen_cost_is_that_of_fifty_separate_fits(shape, seed):
    features, labels = problem(*shape, seed)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    machine = LinearSVC(class_weight="balanced", dual=shape[0] < shape[1], tol=1e-6, max_iter=20_000, random_state=0)
    search = GridSearchCV(machine, {"C": list(svm.COSTS)}, scoring="balanced_accuracy", cv=folds)
    assert svm.choose(features, labels, seed) == search.fit(features, labels).best_params_["C"]


def test_of_equal_costs_the_smallest_is_chosen_and_one_positive_gets_the_default():
    labels = np.arange(60) < 30
    features = np.where(labels[:, None], 1.0, -1.0) + 0.1 * np.random.default_rng(0).standard_normal((60, 5))
    assert svm.choose(features, labels, 0) == min(svm.COSTS) == 1e-5
    assert svm.choose(features, np.arange(60) < 1, 0) == svm.COST


def test_systems_that_are_too_large_are_left_to_the_library(monkeypatch):
    features, labels = problem(120, 8)
    exact, chosen = svm.fit(features, labels, 0.1), svm.choose(features, labels, 0)
    monkeypatch.setattr(svm, "LARGEST_SYSTEM", 4)
    monkeypatch.setattr(svm, "newton_path", None)
    assert cosine(svm.fit(features, labels, 0.1).weights, exact.weights) > 0.9999
    assert svm.choose(features, labels, 0) == chosen
