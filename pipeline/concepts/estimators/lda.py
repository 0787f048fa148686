"""Linear discriminant with shrunk covariance: the difference of means, seen through the noise within the groups."""

from __future__ import annotations

import numpy as np

from .linear import Linear
from .moments import compress, expand


def fit(features: np.ndarray, labels: np.ndarray) -> Linear:
    """Return S^-1 (m1 - m0), S the covariance within the groups, shrunk; the boundary is half-way between the means.

    Args:
        features: `[N, D]`, standardized.
        labels: `[N]`, booleans.

    Source: Fisher 1936; shrinkage of Ledoit and Wolf, Journal of Multivariate Analysis 2004.
    """
    small, back = compress(features)
    means = small[~labels].mean(0), small[labels].mean(0)
    residuals = small - np.where(labels[:, None], means[1], means[0])
    gram = residuals.T @ residuals / len(residuals)
    scale = float(np.trace(gram)) / features.shape[1]
    difference = means[1] - means[0]
    if scale == 0:
        return Linear(expand(difference, features, back), -float((means[0] + means[1]) @ difference) / 2)
    shrinkage = ledoit_wolf(residuals, gram, features.shape[1])
    weights = _solve((1 - shrinkage) * gram, shrinkage * scale, difference)
    return Linear(expand(weights, features, back), -float((means[0] + means[1]) @ weights) / 2)


def ledoit_wolf(residuals: np.ndarray, covariance: np.ndarray, dimensions: int) -> float:
    """Return the share in [0, 1] by which a covariance moves to the mean variance times the identity.

    Args:
        residuals: `[N, R]`, centered, with the inner products of residuals in D dimensions.
        covariance: `[R, R]`, residuals.T @ residuals / N.
        dimensions: D, not below R.
    """
    count = len(residuals)
    size = float((covariance**2).sum())
    scale = float(np.trace(covariance)) / dimensions
    distance = size - dimensions * scale**2
    noise = (float((np.einsum("nd,nd->n", residuals, residuals) ** 2).sum()) / count - size) / count
    return 1.0 if distance <= 0 else float(np.clip(noise / distance, 0, 1))


def _solve(covariance: np.ndarray, floor: float, target: np.ndarray) -> np.ndarray:
    """Return the solution of (covariance + floor I) w = target, the shortest where several are."""
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0) + floor
    kept = values > 1e-12 * values[-1]
    return vectors[:, kept] @ ((vectors[:, kept].T @ target) / values[kept])
