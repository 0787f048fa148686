"""Two classifiers, or two measurements, on the same samples: how much they differ, and whether by more than chance."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import bdtr

from .checks import binary, equal_lengths
from .intervals import Interval, bootstrap, enclosing, normal_quantile, unmeasured

HALVINGS = 60
"""Steps of the search for a bound; enough for the precision of a double."""


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> float:
    """Return the exact two-sided p value of "both classifiers are equally often right".

    Only samples on which exactly one of the two is right tell them apart; under the hypothesis each of these is a
    fair coin. No such sample gives 1.

    Args:
        correct_a: `[N]` booleans, whether the first classifier is right.
        correct_b: `[N]` booleans of the second, on the same samples.

    Raises:
        DataError: when lengths differ or values are not binary.

    Source: McNemar, Psychometrika 1947, with the binomial distribution instead of its chi-squared approximation.
    """
    correct_a, correct_b = binary("correct_a", correct_a), binary("correct_b", correct_b)
    equal_lengths(correct_a=correct_a, correct_b=correct_b)
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def accuracy_gain(correct_a: np.ndarray, correct_b: np.ndarray, confidence: float = 0.95) -> Interval:
    """Return the accuracy of the second classifier minus that of the first, on the same samples.

    The interval holds the differences that the score test does not reject. It leaves out 0 exactly where McNemar's
    chi-squared statistic, without correction for continuity, is significant, and has width also where both are right on
    the same samples.

    Args:
        correct_a: `[N]` booleans, whether the first classifier is right. No samples give nan.
        correct_b: `[N]` booleans of the second, on the same samples.
        confidence: in (0, 1).

    Returns:
        In [-1, 1].

    Raises:
        DataError: when lengths differ or values are not binary.

    Source: Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 1998.
    """
    correct_a, correct_b = binary("correct_a", correct_a), binary("correct_b", correct_b)
    n = equal_lengths(correct_a=correct_a, correct_b=correct_b)
    if n == 0:
        return unmeasured(0)
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    z = normal_quantile(confidence)
    upper = _largest_accepted(only_b, only_a, n, z)
    lower = -_largest_accepted(only_a, only_b, n, z)
    return enclosing((only_b - only_a) / n, lower, upper, n)


def paired_mean_change(
    before: np.ndarray, after: np.ndarray, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the mean of the second measurement minus the first, with the bootstrap interval of the differences.

    Args:
        before: `[N]`. No samples, or a nan among them, give nan.
        after: `[N]` of the same samples.
        resamples, confidence, seed: as in `bootstrap`.

    Raises:
        DataError: when lengths differ.
    """
    before, after = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    n = equal_lengths(before=before, after=after)
    changes = after - before
    if np.isnan(changes).any():
        return unmeasured(n)
    return bootstrap(changes, resamples=resamples, confidence=confidence, seed=seed)


def _largest_accepted(gains: int, losses: int, n: int, z: float) -> float:
    """Return the largest true difference that `gains` - `losses` samples out of `n` do not contradict, in [-1, 1]."""
    low, high = (gains - losses) / n, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _score(gains, losses, n, middle) >= -z else (low, middle)
    return low


def _score(gains: int, losses: int, n: int, difference: float) -> float:
    """Return Tango's score statistic of a true difference, standard normal if it is true.

    The probability of a loss is the most likely one under that difference, the larger root of a quadratic equation.
    """
    linear = (2 * n - gains + losses) * difference - gains - losses
    constant = losses * difference * (difference - 1)
    loss = (math.sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * loss + difference * (1 - difference))
    distance = gains - losses - n * difference
    if variance <= 0:
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)
