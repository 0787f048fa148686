"""Whether probabilities say how often the classifier is right."""

from __future__ import annotations

import numpy as np

from .checks import equal_lengths
from .intervals import Interval, bootstrap, unmeasured

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
    gap between accuracy and mean probability of their bin. Resampling adds noise to every bin, so the interval lies
    high for a model that is calibrated.

    Args:
        probabilities: `[N, K]`, rows sum to 1.
        y: class ids `[N]`.
        resamples, confidence, seed: of the interval.

    Returns:
        In [0, 1]. Source: Guo et al., "On calibration of modern neural networks", ICML 2017, equation 3.
    """
    equal_lengths(probabilities=probabilities, y=y)
    if len(probabilities) == 0:
        return unmeasured(0)
    largest = probabilities.max(1)
    right = (probabilities.argmax(1) == np.asarray(y)).astype(float)
    bins = np.minimum((largest * BINS).astype(int), BINS - 1)
    return bootstrap(
        np.stack([bins, right - largest], 1), _mean_gap, resamples=resamples, confidence=confidence, seed=seed
    )


def _mean_gap(rows: np.ndarray) -> float:
    """Return the sum over bins of |sum of gaps|, over all samples; rows are (bin, right - probability)."""
    sums = np.bincount(rows[:, 0].astype(int), weights=rows[:, 1], minlength=BINS)
    return float(np.abs(sums).sum() / len(rows))
