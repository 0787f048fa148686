"""Scores of predictions that give several labels to a sample."""

from __future__ import annotations

import numpy as np

from .checks import binary_table, equal_lengths
from .intervals import Interval, enclosing, percentile_interval, unmeasured, widened, wilson
from .resampling import resampled_counts


def exact_match(flags: np.ndarray, predicted: np.ndarray, confidence: float = 0.95) -> Interval:
    """Return the share of samples whose labels are all right, with Wilson's interval.

    Args:
        flags: which labels a sample has `[N, K]`, of 0 and 1 (or booleans).
        predicted: which it is given `[N, K]`.
        confidence: in (0, 1).

    Raises:
        DataError: when shapes differ or values are not binary.
    """
    flags, predicted = _checked(flags, predicted)
    return wilson((flags == predicted).all(axis=1).sum(), len(flags), confidence)


def multilabel_macro_f1(
    flags: np.ndarray, predicted: np.ndarray, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the mean F1 over the labels that occur, with a bootstrap interval that draws samples with all labels.

    A resample without a label, true or given, leaves it out. The resampled figures are moved to have the F1 for their
    mean, as in `macro_f1`; where every label is right they have no width.

    Args:
        flags, predicted: as in `exact_match`. Labels that no sample has are left out; when none is left: nan.
        resamples, confidence, seed: as in `bootstrap`.

    Raises:
        DataError: when shapes differ or values are not binary.
    """
    flags, predicted = _checked(flags, predicted)
    n, occur = len(flags), flags.any(axis=0)
    if not occur.any():
        return unmeasured(n)
    truth, given = flags[:, occur].astype(np.float64), predicted[:, occur].astype(np.float64)
    hits, sums = truth * given, truth + given
    value = float((2 * hits.sum(0) / sums.sum(0)).mean())
    drawn = []
    for counts in resampled_counts(n, resamples, seed):
        total = counts @ sums
        f1 = np.divide(2 * (counts @ hits), total, out=np.zeros_like(total), where=total > 0)
        drawn.append(f1.sum(1) / np.maximum((total > 0).sum(1), 1))
    resampled = np.concatenate(drawn)
    found = percentile_interval(value, resampled - resampled.mean() + value, n, widened(confidence, n))
    return enclosing(value, max(0.0, found.lower), min(1.0, found.upper), n)


def _checked(flags: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    flags = binary_table("flags", flags)
    predicted = binary_table("predicted", predicted, flags.shape[1])
    equal_lengths(flags=flags, predicted=predicted)
    return flags, predicted
