"""Area under the ROC curve, its DeLong interval, and the paired test of two score vectors on the same samples."""

from __future__ import annotations

import math

import numpy as np

from .checks import binary, equal_lengths
from .intervals import Interval, normal_quantile, unmeasured


def auroc(scores: np.ndarray, labels: np.ndarray, confidence: float = 0.95) -> Interval:
    """Return the area under the ROC curve with DeLong's interval, clipped to [0, 1].

    Args:
        scores: `[N]`, larger = more positive; ties count one half. A nan among them gives nan.
        labels: `[N]` of 0 and 1 (or booleans). One class absent gives nan.
        confidence: in (0, 1).

    With one positive (or one negative) the variance cannot be estimated and the interval is all of [0, 1]. Classes
    that the scores separate perfectly have variance 0, hence an interval without width, however few samples there are.

    Raises:
        DataError: when lengths differ or labels are not binary.

    Source: DeLong et al., Biometrics 1988; algorithm of Sun & Xu, IEEE Signal Processing Letters 2014.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), binary("labels", labels)
    n = equal_lengths(scores=scores, labels=labels)
    if labels.all() or not labels.any() or np.isnan(scores).any():
        return unmeasured(n)
    positive, negative = placements(scores, labels)
    area = float(positive.mean())
    variance = _variance_of_mean(positive) + _variance_of_mean(negative)
    if math.isnan(variance):
        return Interval(area, 0.0, 1.0, n)
    reach = normal_quantile(confidence) * math.sqrt(variance)
    return Interval(area, max(0.0, area - reach), min(1.0, area + reach), n)


def delong_paired(scores_a: np.ndarray, scores_b: np.ndarray, labels: np.ndarray) -> float:
    """Return the two-sided p value of "both scores have the same AUROC", measured on the same samples.

    Args:
        scores_a: `[N]`.
        scores_b: `[N]`.
        labels: `[N]` of 0 and 1. Fewer than two of a class, or a nan score, gives nan; equal areas whose difference
            does not vary give 1.

    Raises:
        DataError: when lengths differ or labels are not binary.

    Source: as `auroc`.
    """
    scores = np.asarray(scores_a, dtype=np.float64), np.asarray(scores_b, dtype=np.float64)
    labels = binary("labels", labels)
    equal_lengths(scores_a=scores[0], scores_b=scores[1], labels=labels)
    if min(labels.sum(), (~labels).sum()) < 2 or np.isnan(scores).any():
        return math.nan
    (positive_a, negative_a), (positive_b, negative_b) = (placements(each, labels) for each in scores)
    # Var(A - B) of the placements' differences is Var(A) + Var(B) - 2 Cov(A, B), without cancellation.
    variance = _variance_of_mean(positive_a - positive_b) + _variance_of_mean(negative_a - negative_b)
    difference = abs(float(positive_a.mean() - positive_b.mean()))
    if variance == 0:
        return 1.0 if difference == 0 else 0.0
    return math.erfc(difference / math.sqrt(2 * variance))


def placements(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each positive, the share of negatives below it, and for each negative the share of positives above.

    Both means are the AUROC. Ties count one half. The ranks make it O(N log N) (Sun & Xu 2014, equations 13 and 14).
    """
    ranks = midranks(scores)
    positives, negatives = scores[labels], scores[~labels]
    above = (ranks[labels] - midranks(positives)) / len(negatives)
    below = (ranks[~labels] - midranks(negatives)) / len(positives)
    return above, 1 - below


def midranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks `[N]` from 1; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _variance_of_mean(values: np.ndarray) -> float:
    """Return the estimated variance of the mean, nan for a single value."""
    return float(values.var(ddof=1) / len(values)) if len(values) > 1 else math.nan
