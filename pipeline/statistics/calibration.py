"""Whether probabilities say how often the classifier is right."""

from __future__ import annotations

import numpy as np

from .checks import equal_lengths
from .intervals import Interval, bootstrap, percentile_interval, unmeasured

BINS = 15


def brier_score(
    probabilities: np.ndarray, y: np.ndarray, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the mean squared distance between probabilities and the true class, with a bootstrap interval.

    Args:
        probabilities: `[N, K]`, rows sum to 1.
        y: class ids `[N]`.
        resamples, confidence, seed: of the interval.

    Returns:
        In [0, 2]; 0 = certain and right. Source: Brier, Monthly Weather Review 1950, summed over classes.
    """
    equal_lengths(probabilities=probabilities, y=y)
    distances = ((probabilities - np.eye(probabilities.shape[1])[np.asarray(y)]) ** 2).sum(1)
    return bootstrap(distances, resamples=resamples, confidence=confidence, seed=seed)


def calibration_error(
    probabilities: np.ndarray, y: np.ndarray, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the expected calibration error of the predicted class, with a bootstrap interval.

    Samples are put into 15 bins of equal width by the largest probability; the error is the mean over samples of the
    gap between accuracy and mean probability of their bin. Drawing samples again adds to every gap, so the resampled
    errors are moved down by what they lie above the error on average.

    Args:
        probabilities: `[N, K]`, rows sum to 1.
        y: class ids `[N]`.
        resamples, confidence, seed: of the interval.

    Returns:
        In [0, 1]. Source: Guo et al., "On calibration of modern neural networks", ICML 2017, equation 3.
    """
    equal_lengths(probabilities=probabilities, y=y)
    count = len(probabilities)
    if count == 0:
        return unmeasured(0)
    largest = probabilities.max(1)
    gaps = (probabilities.argmax(1) == np.asarray(y)) - largest
    bins = np.minimum((largest * BINS).astype(int), BINS - 1)
    value, rng = _error(bins, gaps), np.random.default_rng(seed)
    drawn = (rng.integers(count, size=count) for _ in range(resamples))
    resampled = np.array([_error(bins[rows], gaps[rows]) for rows in drawn])
    found = percentile_interval(value, resampled - (resampled.mean() - value), count, confidence)
    return found._replace(lower=max(found.lower, 0.0))


def _error(bins: np.ndarray, gaps: np.ndarray) -> float:
    return float(np.abs(np.bincount(bins, weights=gaps, minlength=BINS)).sum() / len(gaps))
