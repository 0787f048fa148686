"""Area under the ROC curve with DeLong's interval: of one class, of several, and of two scores on the same samples."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import expit, stdtrit

from ..errors import DataError
from .checks import binary, binary_table, equal_lengths
from .intervals import Interval, enclosing, score_bounds, unmeasured


def auroc(scores: np.ndarray, labels: np.ndarray, confidence: float = 0.95) -> Interval:
    """Return the area under the ROC curve with DeLong's interval on the logit scale.

    Args:
        scores: `[N]`, larger = more positive; ties count one half. A nan among them gives nan.
        labels: `[N]` of 0 and 1 (or booleans). One class absent gives nan.
        confidence: in (0, 1).

    With one positive (or one negative) the variance cannot be estimated and the interval is all of [0, 1]. Classes that
    the scores separate perfectly have no variance to estimate: they get the bounds that Wilson gives to a share of as
    many trials as would vary like an area near 1 (Hanley & McNeil). Equal scores for all have an area of one half
    without width.

    Raises:
        DataError: when lengths differ or labels are not binary.

    Source: DeLong et al., Biometrics 1988; algorithm of Sun & Xu, IEEE Signal Processing Letters 2014; logit scale of
    Pepe, "The statistical evaluation of medical tests", 2003, section 5.3, since near 1 the bounds that are symmetric
    hold the area too rarely; Student's quantile with the degrees of freedom of Satterthwaite, Biometrics Bulletin 1946.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), binary("labels", labels)
    n = equal_lengths(scores=scores, labels=labels)
    if labels.all() or not labels.any() or np.isnan(scores).any():
        return unmeasured(n)
    positive, negative = placements(scores, labels)
    area = float(positive.mean())
    return _logit_interval(area, _spread(positive, negative), _trials(labels), n, confidence)


def macro_auroc(scores: np.ndarray, labels: np.ndarray, confidence: float = 0.95) -> Interval:
    """Return the mean over classes of the area under the ROC curve of a class against all others.

    All areas rest on the same samples: what a sample adds to each of them is summed before it is squared, which makes
    the interval DeLong's of a mean of dependent areas. With one class it is that of `auroc`.

    Args:
        scores: `[N, K]`; column k ranks class k. A nan among them gives nan.
        labels: class ids `[N]` in 0..K-1, or flags `[N, K]` of 0 and 1. Classes without positives or without negatives
            are left out; when none is left: nan. With one positive (or negative) in a class the interval is [0, 1].
        confidence: in (0, 1).

    Raises:
        DataError: when shapes do not fit, ids lie outside 0..K-1 or flags are not binary.

    Source: as `auroc`; Hand & Till, Machine Learning 2001, compare pairs of classes instead.
    """
    scores, flags = scores_and_flags(scores, labels)
    n, usable = len(flags), usable_classes(flags)
    if not usable.any() or np.isnan(scores).any():
        return unmeasured(n)
    areas, spreads, influences = [], [], np.zeros(n)
    for column, flag in zip(scores.T[usable], flags.T[usable], strict=True):
        positive, negative = placements(column, flag)
        areas.append(positive.mean())
        spreads.append(_spread(positive, negative))
        influences[flag] += _influences(positive)
        influences[~flag] += _influences(negative)
    variance = float((influences**2).sum()) / len(areas) ** 2
    varying = [each for each in spreads if each.variance > 0]
    # Areas of the same samples do not add degrees of freedom: their mean, weighted as the variances are.
    freedom = np.average([e.freedom for e in varying], weights=[e.variance for e in varying]) if varying else math.inf
    trials = min(_trials(flag) for flag in flags.T[usable])
    return _logit_interval(float(np.mean(areas)), _Spread(variance, float(freedom)), trials, n, confidence)


def auroc_gain(scores_a: np.ndarray, scores_b: np.ndarray, labels: np.ndarray, confidence: float = 0.95) -> Interval:
    """Return the AUROC of the second scores minus that of the first, on the same samples, with DeLong's interval.

    Args:
        scores_a: `[N]`.
        scores_b: `[N]`.
        labels: `[N]` of 0 and 1. Fewer than two of a class, or a nan score, gives nan.
        confidence: in (0, 1).

    Returns:
        In [-1, 1]. Scores that rank alike differ by 0 without width.

    Raises:
        DataError: when lengths differ or labels are not binary.

    Source: as `auroc`, the difference on its own scale.
    """
    pairs = _paired_placements(scores_a, scores_b, labels)
    n = len(np.asarray(labels))
    if pairs is None:
        return unmeasured(n)
    positive, negative = pairs
    gain, spread = float(positive.mean()), _spread(positive, negative)
    reach = spread.reach(confidence)
    return Interval(gain, max(-1.0, gain - reach), min(1.0, gain + reach), n)


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
    pairs = _paired_placements(scores_a, scores_b, labels)
    if pairs is None:
        return math.nan
    positive, negative = pairs
    variance = _spread(positive, negative).variance
    difference = abs(float(positive.mean()))
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


def scores_and_flags(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scores `[N, K]` and, from class ids `[N]` or flags `[N, K]`, which sample is of which class `[N, K]`.

    Raises:
        DataError: when shapes do not fit, ids lie outside 0..K-1 or flags are not binary.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if scores.ndim != 2:
        raise DataError(f"scores must have a column for every class, [N, K], not the shape {scores.shape}.")
    equal_lengths(scores=scores, labels=labels)
    if labels.ndim == 2:
        return scores, binary_table("labels", labels, scores.shape[1])
    classes = np.arange(scores.shape[1])
    outside = ~np.isin(labels, classes)
    if labels.ndim != 1 or outside.any():
        found = f"{labels[outside].flat[0]!r}" if outside.any() else f"the shape {labels.shape}"
        raise DataError(
            f"labels must be class ids in 0..{len(classes) - 1}, or flags [N, {len(classes)}], not {found}. "
            "Pass a column of scores for every class."
        )
    return scores, labels[:, None] == classes


def usable_classes(flags: np.ndarray) -> np.ndarray:
    """Return which of the classes `[K]` have positives and negatives among the flags `[N, K]`."""
    return flags.any(axis=0) & ~flags.all(axis=0)


class _Spread(NamedTuple):
    """How much an estimate varies.

    Attributes:
        variance: estimated; nan where a class has one sample.
        freedom: degrees of freedom of that estimate.
    """

    variance: float
    freedom: float

    def reach(self, confidence: float) -> float:
        """Return how far an interval that is symmetric extends to either side."""
        if self.variance == 0:
            return 0.0
        return float(stdtrit(self.freedom, 0.5 + confidence / 2)) * math.sqrt(self.variance)


def _spread(positive: np.ndarray, negative: np.ndarray) -> _Spread:
    """Return how much the area varies whose placements, or differences of placements, are given."""
    parts = [float((_influences(each) ** 2).sum()) for each in (positive, negative)]
    squares = sum(part**2 / (len(each) - 1) for part, each in zip(parts, (positive, negative), strict=True) if part > 0)
    return _Spread(sum(parts), sum(parts) ** 2 / squares if squares > 0 else math.inf)


def _influences(values: np.ndarray) -> np.ndarray:
    """Return what each value adds to the mean's error; squared they add up to its variance, nan for a single value."""
    size = len(values)
    return (values - values.mean()) / math.sqrt(size * (size - 1)) if size > 1 else np.full(1, math.nan)


def _trials(labels: np.ndarray) -> float:
    """Return of how many trials a share near 1 varies as much as an area near 1 of that many positives and negatives.

    Source: Hanley & McNeil, Radiology 1982, whose variance near 1 is (1 - area) (m + n + 2) / (4 m n) with exponential
    scores and both classes of size (m + n) / 2 in its correction, after Newcombe, Statistics in Medicine 2006.
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    return 4 * positives * negatives / (positives + negatives + 2)


def _logit_interval(area: float, spread: _Spread, trials: float, n: int, confidence: float) -> Interval:
    if math.isnan(spread.variance):
        return Interval(area, 0.0, 1.0, n)
    if area in (0.0, 1.0):
        return Interval(area, *score_bounds(area, trials, confidence), n)
    middle, reach = math.log(area / (1 - area)), spread.reach(confidence) / (area * (1 - area))
    return enclosing(area, float(expit(middle - reach)), float(expit(middle + reach)), n)


def _paired_placements(
    scores_a: np.ndarray, scores_b: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return what the second scores' placements have more than the first's, None where nothing can be said.

    The variance of these differences is Var(A) + Var(B) - 2 Cov(A, B), without cancellation.
    """
    scores = np.asarray(scores_a, dtype=np.float64), np.asarray(scores_b, dtype=np.float64)
    labels = binary("labels", labels)
    equal_lengths(scores_a=scores[0], scores_b=scores[1], labels=labels)
    if min(labels.sum(), (~labels).sum()) < 2 or np.isnan(scores).any():
        return None
    (positive_a, negative_a), (positive_b, negative_b) = (placements(each, labels) for each in scores)
    return positive_b - positive_a, negative_b - negative_a
