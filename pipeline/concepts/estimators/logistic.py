"""Logistic regression with a penalty on the squared length of its weights, both groups weighing the same."""

from __future__ import annotations

import warnings

import numpy as np

from .linear import Linear
from .search import STRENGTHS, balanced_accuracy, best_strength, stratified_folds

COST = 0.1
COSTS = STRENGTHS
STEPS = 1000


def fit(features: np.ndarray, labels: np.ndarray, cost: float = COST) -> Linear:
    """Return the regression of one C.

    Args:
        features: `[N, D]`, standardized.
        labels: `[N]`, booleans.
        cost: C of scikit-learn, the inverse of the penalty; the smaller, the more regularized.
    """
    weights, intercept = _path(features, labels, (cost,))
    return Linear(weights[0], float(intercept[0]))


def choose(features: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """Return C out of 10^-5 ... 10^4 with the best balanced accuracy in five folds; of equals the smallest."""
    scores = []
    for fitted, held_out in stratified_folds(labels, seed):
        weights, intercepts = _path(features[fitted], labels[fitted], COSTS)
        scores.append(balanced_accuracy(features[held_out] @ weights.T + intercepts, labels[held_out]))
    return best_strength(COSTS, scores) if scores else COST


def _path(features: np.ndarray, labels: np.ndarray, costs: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return weights `[S, D]` and intercepts `[S]`; each regression starts from the one before."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    regression = LogisticRegression(class_weight="balanced", max_iter=STEPS, warm_start=True)
    weights, intercepts = [], []
    with warnings.catch_warnings():
        # groups that are perfectly apart push weak penalties to ever longer weights, whose direction stays
        warnings.simplefilter("ignore", ConvergenceWarning)
        for cost in costs:
            regression.set_params(C=cost).fit(features, labels)
            weights.append(regression.coef_.ravel())
            intercepts.append(float(regression.intercept_[0]))
    return np.stack(weights), np.array(intercepts)
