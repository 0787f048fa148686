"""Whether probabilities say how often the classifier is right."""

from __future__ import annotations

import numpy as np

from .checks import equal_lengths
from .intervals import Interval, bootstrap, enclosing, percentile_interval, unmeasured
from .resampling import resampled_counts

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
    gap between accuracy and mean probability of their bin. Chance makes gaps: the error of a finite sample lies above
    that of the classifier, by much where few samples share a bin. Drawing samples again adds about as much once more,
    so the resampled errors are moved down by what they lie above the error on average, for the lower bound twice. It is
    0 where a calibrated classifier with these probabilities would seem to err as much.

    Args:
        probabilities: `[N, K]`, rows sum to 1.
        y: class ids `[N]`.
        resamples, confidence, seed: of the interval.

    Returns:
        In [0, 1]. The value is not corrected. Source: Guo et al., "On calibration of modern neural networks", ICML
        2017, equation 3; the comparison with a calibrated classifier: Broecker & Smith, Weather and Forecasting 2007.
    """
    n = equal_lengths(probabilities=probabilities, y=y)
    if n == 0:
        return unmeasured(0)
    largest = probabilities.max(1)
    bins = np.minimum((largest * BINS).astype(int), BINS - 1)
    in_bin = (bins[:, None] == np.arange(BINS)).astype(np.float64)
    gaps = ((probabilities.argmax(1) == np.asarray(y)) - largest)[:, None] * in_bin
    value = float(np.abs(gaps.sum(0)).sum()) / n
    resampled, calibrated = [], []
    rng = np.random.default_rng(seed)
    for counts in resampled_counts(n, resamples, seed):
        resampled.append(np.abs(counts @ gaps).sum(1) / n)
        right = rng.random(counts.shape) < largest
        calibrated.append(np.abs((right - largest) @ in_bin).sum(1) / n)
    drawn = np.concatenate(resampled)
    excess = drawn.mean() - value
    found = percentile_interval(value, drawn - excess, n, confidence)
    chance = np.quantile(np.concatenate(calibrated), 0.5 + confidence / 2)
    lower = 0.0 if value <= chance else max(found.lower - excess, 0.0)
    return enclosing(value, lower, found.upper, n)
