"""The test of two classifiers on the same samples."""

from __future__ import annotations

import numpy as np
from scipy.special import bdtr

from .checks import binary, equal_lengths


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
