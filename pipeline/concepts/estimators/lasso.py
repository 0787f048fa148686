"""Lasso on targets -1 and 1, both groups weighing the same: few channels that tell the concept."""

from __future__ import annotations

import warnings

import numpy as np

from .linear import Linear, sample_weights
from .search import balanced_accuracy, best_strength, stratified_folds

PENALTIES = tuple(10.0**power for power in range(0, -6, -1))
SHARE = 0.05
STEPS = 2000
TOLERANCE = 1e-6


def fit(features: np.ndarray, labels: np.ndarray, penalty: float | None = None) -> Linear:
    """Return argmin sum_i c_i (y_i - w.x_i - b)^2 / (2 N) + penalty |w|_1, c_i = N / (2 N_c).

    Args:
        features: `[N, D]`, standardized.
        labels: `[N]`, booleans.
        penalty: None means a twentieth of the smallest under which all weights are 0. The larger, the fewer weights.
    """
    least = silencing_penalty(features, labels)
    if least == 0:
        return Linear(np.zeros(features.shape[1]), 0.0)
    weights, intercepts = _path(features, labels, (SHARE * least if penalty is None else penalty,))
    return Linear(weights[0], float(intercepts[0]))


def choose(features: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """Return the penalty out of 1 ... 10^-5 with the best balanced accuracy in five folds; of equals the largest.

    Penalties under which all weights are 0 are left out; where no other is left, a twentieth of the smallest such.
    """
    least = silencing_penalty(features, labels)
    penalties = tuple(each for each in PENALTIES if each < least)
    folds = stratified_folds(labels, seed)
    if not folds or not penalties:
        return SHARE * least
    scores = []
    for fitted, held_out in folds:
        weights, intercepts = _path(features[fitted], labels[fitted], penalties)
        scores.append(balanced_accuracy(features[held_out] @ weights.T + intercepts, labels[held_out]))
    return best_strength(penalties, scores)


def silencing_penalty(features: np.ndarray, labels: np.ndarray) -> float:
    """Return the smallest penalty under which all weights are 0: max_j |sum_i c_i y_i x_ij| / N."""
    return float(np.abs(features[labels].mean(0) - features[~labels].mean(0)).max() / 2)


def _path(features: np.ndarray, labels: np.ndarray, penalties: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return weights `[S, D]` and intercepts `[S]` for descending penalties; each solution starts the next."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import lasso_path

    weights = sample_weights(labels)
    mean = weights @ features / weights.sum()
    roots = np.sqrt(weights)
    # the balanced targets have mean 0, and weighted least squares are those of rows times the root of their weight
    rows, targets = (features - mean) * roots[:, None], np.where(labels, roots, -roots)
    with warnings.catch_warnings():
        # near-collinear channels share their weight slowly, which moves hardly any decision
        warnings.simplefilter("ignore", ConvergenceWarning)
        _, found, _ = lasso_path(rows, targets, alphas=penalties, max_iter=STEPS, tol=TOLERANCE)
    return found.T, -(mean @ found)
