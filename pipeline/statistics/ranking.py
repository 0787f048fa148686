"""How well scores rank positives before negatives: average precision and Kendall's tau."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit, stdtrit

from .auroc import auroc, scores_and_flags, usable_classes
from .checks import binary, equal_lengths
from .intervals import Interval, enclosing, score_bounds, unmeasured
from .resampling import resampled_counts


def average_precision(
    scores: np.ndarray, labels: np.ndarray, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the average precision with its bootstrap interval; positives and negatives are resampled apart.

    It is the mean, over positives, of the precision among all samples that score at least as high; no order within
    equal scores is assumed. Useless scores give about the share of positives.

    The interval is symmetric on the logit scale, with the standard deviation of the resamples and Student's quantile
    for as many rows as there are positives. A finite sample lies above what many would give, since every positive
    counts for its own precision, and a resample lies above the sample again: the centre lies as far below. A perfect
    ranking, whose resamples are all perfect, gets the lower bound of Wilson's interval for as many successes as there
    are positives; with one positive the interval is all of [0, 1].

    Args:
        scores: `[N]`, larger = more positive. A nan among them gives nan.
        labels: `[N]` of 0 and 1 (or booleans). No positives or no negatives give nan.
        resamples: number of resamples.
        confidence: in (0, 1).
        seed: the same seed and input give the same interval.

    Raises:
        DataError: when lengths differ or labels are not binary.

    Source: the logit scale as in Boyd, Eng & Page, "Area under the precision-recall curve: point estimates and
    confidence intervals", ECML 2013.
    """
    scores, labels = _checked(scores, labels)
    n = len(labels)
    if _undefined(scores, labels):
        return unmeasured(n)
    # Sorted once: a resample keeps the order, so that it only has to count.
    order = np.argsort(-scores, kind="stable")
    ranking = _Ranking(scores[order], labels[order])
    value = float(ranking.average_precision(np.ones((1, n), dtype=int))[0])
    drawn = [ranking.average_precision(each) for each in resampled_counts(n, resamples, seed, labels[order])]
    return _logit_interval(value, np.concatenate(drawn), int(labels.sum()), n, confidence)


def macro_average_precision(
    scores: np.ndarray, labels: np.ndarray, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the mean over classes of the average precision of a class against all others, with a bootstrap interval.

    A resample draws samples for all classes at once; the interval is made of the resamples as in
    `average_precision`, with the mean number of positives of a class.

    Args:
        scores: `[N, K]`; column k ranks class k. A nan among them gives nan.
        labels: class ids `[N]` in 0..K-1, whose numbers every resample keeps, or flags `[N, K]` of 0 and 1. Classes
            without positives or without negatives are left out; when none is left: nan.
        resamples: number of resamples.
        confidence: in (0, 1).
        seed: the same seed and input give the same interval.

    Raises:
        DataError: when shapes do not fit, ids lie outside 0..K-1 or flags are not binary.
    """
    scores, flags = scores_and_flags(scores, labels)
    n, usable = len(flags), usable_classes(flags)
    if not usable.any() or np.isnan(scores).any():
        return unmeasured(n)
    orders = [np.argsort(-column, kind="stable") for column in scores.T[usable]]
    rankings = [
        _Ranking(column[order], flag[order])
        for column, flag, order in zip(scores.T[usable], flags.T[usable], orders, strict=True)
    ]
    ones = np.ones((1, n), dtype=int)
    value = float(np.mean([each.average_precision(ones)[0] for each in rankings]))
    strata = np.asarray(labels) if np.ndim(labels) == 1 else None
    drawn = []
    for counts in resampled_counts(n, resamples, seed, strata):
        found = [
            each.average_precision(np.take(counts, order, axis=1)) for each, order in zip(rankings, orders, strict=True)
        ]
        drawn.append(_mean_of_known(np.stack(found)))
    resampled, positives = np.concatenate(drawn), float(flags.sum(axis=0)[usable].mean())
    return _logit_interval(value, resampled[~np.isnan(resampled)], positives, n, confidence)


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


class _Ranking:
    """Samples in falling order of their scores, ready for many resamples at once."""

    def __init__(self, scores: np.ndarray, labels: np.ndarray) -> None:
        """Take scores `[N]`, in falling order, and labels `[N]`, booleans with at least one positive."""
        self.positives = np.flatnonzero(labels)
        last = _last_of_equal(scores)[self.positives]
        self.last = last
        # of the positives, the last one whose score is equal
        self.last_positive = np.searchsorted(self.positives, last, side="right") - 1

    def average_precision(self, counts: np.ndarray) -> np.ndarray:
        """Return the average precision `[R]` where samples occur `counts` times `[R, N]`; nan without positives."""
        drawn = np.take(counts, self.positives, axis=1)
        found = np.cumsum(drawn, axis=1)
        ahead = np.take(np.cumsum(counts, axis=1), self.last, axis=1)
        precision = np.take(found, self.last_positive, axis=1) / np.maximum(ahead, 1)
        total, positives = (precision * drawn).sum(axis=1), found[:, -1]
        return np.divide(total, positives, out=np.full(len(counts), np.nan), where=positives > 0)


def _last_of_equal(ordered: np.ndarray) -> np.ndarray:
    """Return, for each of the sorted values `[N]`, the place of the last one that equals it."""
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    return ends[np.searchsorted(ends, np.arange(len(ordered)))]


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Return the means `[R]` over classes of values `[K, R]` that are not nan; nan where all are."""
    known = ~np.isnan(values)
    counts = known.sum(0)
    total = np.where(known, values, 0.0).sum(0)
    return np.divide(total, counts, out=np.full(values.shape[1], np.nan), where=counts > 0)


def _logit_interval(value: float, resampled: np.ndarray, positives: float, n: int, confidence: float) -> Interval:
    """Return the interval of an average precision from its resampled values `[R]`; see `average_precision`."""
    if value == 1:
        return Interval(value, score_bounds(1.0, positives, confidence)[0], 1.0, n)
    if positives <= 1:
        return Interval(value, 0.0, 1.0, n)
    # Resamples vary less than samples, by a factor of (P - 1) / P; the logit's slope is 1 / (value (1 - value)).
    deviation = resampled.std() * np.sqrt(positives / (positives - 1)) / (value * (1 - value))
    centre = 2 * logit(value) - logit(min(resampled.mean(), 1 - 1e-12))
    reach = stdtrit(positives - 1, 0.5 + confidence / 2) * deviation
    return enclosing(value, expit(centre - reach), expit(centre + reach), n)
