"""Ridge regression on targets -1 and 1, both groups weighing the same, in closed form."""

from __future__ import annotations

import numpy as np

from .linear import Linear
from .moments import Moments, compress, expand
from .search import STRENGTHS, balanced_accuracy, best_strength, stratified_folds

PENALTY = 1.0
PENALTIES = STRENGTHS[::-1]


def fit(features: np.ndarray, labels: np.ndarray, penalty: float = PENALTY) -> Linear:
    """Return argmin sum_i c_i (y_i - w.x_i - b)^2 + penalty |w|^2, c_i = N / (2 N_c).

    Args:
        features: `[N, D]`, standardized.
        labels: `[N]`, booleans.
        penalty: the intercept is not penalized.
    """
    from scipy.linalg import solve

    small, back = compress(features)
    scatter, cross, mean = _normal_equations(Moments.of(small, labels))
    weights = solve(scatter + penalty * np.eye(len(cross)), cross, assume_a="pos", overwrite_a=True)
    return Linear(expand(weights, features, back), -float(mean @ weights))


def choose(features: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """Return the penalty out of 10^4 ... 10^-5 with the best balanced accuracy in five folds; of equals the largest.

    Exact, as if each fold were fitted for each penalty: the Gram matrix of a fold is that of all samples less that of
    the held-out ones, and one eigendecomposition solves all penalties.
    """
    folds = stratified_folds(labels, seed)
    if not folds:
        return PENALTY
    small, _ = compress(features)
    total = Moments.of(small, labels)
    penalties = np.array(PENALTIES)
    scores = []
    for _, held_out in folds:
        scatter, cross, mean = _normal_equations(total.without(Moments.of(small[held_out], labels[held_out])))
        values, vectors = np.linalg.eigh(scatter)
        weights = vectors @ ((vectors.T @ cross)[:, None] / (np.maximum(values, 0)[:, None] + penalties))
        scores.append(balanced_accuracy(small[held_out] @ weights - mean @ weights, labels[held_out]))
    return best_strength(PENALTIES, scores)


def _normal_equations(moments: Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the weighted scatter `[D, D]`, sum c y (x - mean) `[D]` and the weighted mean `[D]`.

    With balanced weights the mean is half-way between both groups, and the targets' mean is 0.
    """
    count = moments.counts.sum()
    without, having = moments.sums / moments.counts[:, None]
    mean = (without + having) / 2
    scatter = moments.weights[0] * moments.grams[0] + moments.weights[1] * moments.grams[1]
    return scatter - count * np.outer(mean, mean), count / 2 * (having - without), mean
