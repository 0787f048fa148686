"""The pattern: how features move with the concept, Cov(x, t) / Var(t)."""

from __future__ import annotations

import numpy as np

from .linear import Linear

BLOCK = 4096


class PatternAccumulator:
    """Cov(x, t) / Var(t) of samples that come in batches, in one pass and O(D) memory.

    Batches are centered on their own and merged by the shift of their means (Chan et al. 1983), in float64, so that a
    large offset of the features costs no digits. `t` may be any real number; for t in {0, 1} the result is the
    difference of the means of both groups.

    Source: Haufe et al., NeuroImage 2014; Pahde et al., "Navigating neural space", 2022.
    """

    def __init__(self) -> None:
        self.count = 0
        self._origin: np.ndarray | None = None
        self._mean: np.ndarray | float = 0.0
        self._covariation: np.ndarray | float = 0.0
        self._target_mean = 0.0
        self._target_variation = 0.0

    def update(self, features: np.ndarray, targets: np.ndarray) -> None:
        """Add samples: features `[N, D]`, targets `[N]`. Neither is changed."""
        for start in range(0, len(features), BLOCK):
            self._add(features[start : start + BLOCK], np.asarray(targets[start : start + BLOCK], dtype=np.float64))

    def _add(self, features: np.ndarray, targets: np.ndarray) -> None:
        if self._origin is None:
            self._origin = np.array(features[0], dtype=np.float64)
        shifted = features - self._origin  # a constant feature is exactly 0 from here on
        count, mean, target_mean = len(shifted), shifted.mean(0), targets.mean()
        centered = targets - target_mean
        total = self.count + count
        share = self.count * count / total
        step = target_mean - self._target_mean
        self._covariation = self._covariation + centered @ shifted + (mean - self._mean) * (step * share)
        self._target_variation += float(centered @ centered) + step * step * share
        self._mean = self._mean + (mean - self._mean) * (count / total)
        self._target_mean += step * count / total
        self.count = total

    def result(self) -> np.ndarray:
        """Return the pattern `[D]`, in units of the features per unit of the target.

        Raises:
            ValueError: targets do not vary, or there are none.
        """
        if self._target_variation == 0:
            raise ValueError(f"a pattern needs targets that differ; those of all {self.count} samples are equal")
        return self._covariation / self._target_variation


def fit(features: np.ndarray, labels: np.ndarray) -> Linear:
    """Return the pattern of features `[N, D]` and labels `[N]`."""
    accumulator = PatternAccumulator()
    accumulator.update(features, labels)
    return Linear(accumulator.result())
