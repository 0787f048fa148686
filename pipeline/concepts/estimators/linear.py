"""What all estimators return, and the scaling under which filters are fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CONSTANT = 1e-9


@dataclass(frozen=True)
class Linear:
    """What an estimator found.

    Attributes:
        weights: `[D]`, of any length; zeros where nothing was found.
        intercept: of a filter: `features @ weights + intercept` is above 0 where it sees the concept. A pattern says
            where the concept moves features, not where it begins, and has none.
    """

    weights: np.ndarray
    intercept: float | None = None


@dataclass(frozen=True)
class Standardized:
    """Features with mean 0 and deviation 1, and the way back.

    Attributes:
        features: `[N, D]`, float64; a column that does not vary is 0.
        center: `[D]`.
        spread: `[D]`, 1 where the feature does not vary.
    """

    features: np.ndarray
    center: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Standardized:
        """Standardize features `[N, D]`, which stay as they are."""
        features = np.asarray(features, dtype=np.float64)
        center, spread = features.mean(0), features.std(0)
        # the mean of equal numbers is rounded, so a constant feature may have a spread just above 0
        constant = spread <= CONSTANT * np.abs(features).max(0)
        spread[constant] = 1.0
        scaled = (features - center) / spread
        scaled[:, constant] = 0.0
        return cls(scaled, center, spread)

    def filter_back(self, found: Linear) -> Linear:
        """Return the filter of these features in the coordinates of the original ones: w / s and b - w.m / s.

        A filter takes its scaling with it, so that its decisions stay; a pattern would be multiplied by s instead.
        """
        weights = found.weights / self.spread
        return Linear(weights, None if found.intercept is None else found.intercept - float(self.center @ weights))


def class_weights(labels: np.ndarray) -> tuple[float, float]:
    """Return the weights of a sample without and of one with the concept, N / (2 N_c): both groups weigh N / 2."""
    positive = int(labels.sum())
    return len(labels) / (2 * (len(labels) - positive)), len(labels) / (2 * positive)


def sample_weights(labels: np.ndarray) -> np.ndarray:
    """Return `class_weights` for each of `[N]` boolean labels."""
    without, having = class_weights(labels)
    return np.where(labels, having, without)
