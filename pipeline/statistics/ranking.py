"""How well scores rank positives before negatives: average precision and Kendall's tau."""

from __future__ import annotations

import numpy as np

from .auroc import auroc
from .checks import binary, equal_lengths
from .intervals import Interval, bootstrap, unmeasured


def average_precision(
    scores: np.ndarray, labels: np.ndarray, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the average precision with its bootstrap interval; positives and negatives are resampled apart.

    It is the mean, over positives, of the precision among all samples that score at least as high; no order within
    equal scores is assumed. Useless scores give about the share of positives.

    Args:
        scores: `[N]`, larger = more positive. A nan among them gives nan.
        labels: `[N]` of 0 and 1 (or booleans). No positives or no negatives give nan.
        resamples: number of resamples.
        confidence: in (0, 1).
        seed: the same seed and input give the same interval.

    Raises:
        DataError: when lengths differ or labels are not binary.
    """
    scores, labels = _checked(scores, labels)
    if _undefined(scores, labels):
        return unmeasured(len(labels))
    # Sorted once: a resample keeps the order, so that it only has to count.
    order = np.argsort(-scores, kind="stable")
    last = _last_of_equal(scores[order])
    sorted_labels = labels[order]

    def of_rows(rows: np.ndarray) -> float:
        times = np.bincount(rows, minlength=len(order))
        return _average_precision(times * sorted_labels, times, last)

    return bootstrap(
        np.arange(len(order)), of_rows, strata=sorted_labels, resamples=resamples, confidence=confidence, seed=seed
    )


def kendall_tau(scores: np.ndarray, labels: np.ndarray, confidence: float = 0.95) -> tuple[Interval, float]:
    """Return Kendall's tau-b of scores and labels in [-1, 1], and the p value of "there is no association".

    With binary labels tau-b is (2 AUROC - 1) sqrt(P / D), of P pairs with different labels and D pairs with different
    scores: perfect scores reach 1 only where they are as binary as the labels. The interval is DeLong's of the AUROC,
    carried over by this relation.

    Args:
        scores: `[N]`, larger = more positive. A nan among them, or equal scores for all, gives nan.
        labels: `[N]` of 0 and 1 (or booleans). One class absent gives nan.
        confidence: in (0, 1).

    Raises:
        DataError: when lengths differ or labels are not binary.

    Source: Kendall, "The treatment of ties in ranking problems", Biometrika 1945; p value of SciPy.
    """
    from scipy.stats import kendalltau

    scores, labels = _checked(scores, labels)
    n = len(labels)
    if _undefined(scores, labels) or (scores == scores[0]).all():
        return unmeasured(n), float("nan")
    area = auroc(scores, labels, confidence)
    _, ties = np.unique(scores, return_counts=True)
    different_labels = int(labels.sum()) * int((~labels).sum())
    different_scores = (n * n - int((ties**2).sum())) // 2
    scale = np.sqrt(different_labels / different_scores)
    value, lower, upper = (float(np.clip((2 * figure - 1) * scale, -1, 1)) for figure in area[:3])
    return Interval(value, lower, upper, n), float(kendalltau(scores, labels).pvalue)


def _checked(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = np.asarray(scores, dtype=np.float64), binary("labels", labels)
    equal_lengths(scores=scores, labels=labels)
    return scores, labels


def _undefined(scores: np.ndarray, labels: np.ndarray) -> bool:
    return bool(labels.all() or not labels.any() or np.isnan(scores).any())


def _last_of_equal(ordered: np.ndarray) -> np.ndarray:
    """Return, for each of the sorted values `[N]`, the place of the last one that equals it."""
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    return ends[np.searchsorted(ends, np.arange(len(ordered)))]


def _average_precision(positives: np.ndarray, counts: np.ndarray, last: np.ndarray) -> float:
    """Return the average precision of samples in falling order that occur `counts` times `[N]`, of them positive ones.

    Args:
        last: `[N]`, see `_last_of_equal`.
    """
    ahead = np.cumsum(counts)[last]
    precision = np.cumsum(positives)[last] / np.maximum(ahead, 1)
    return float((precision * positives).sum() / positives.sum())
