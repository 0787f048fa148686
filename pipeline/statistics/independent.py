"""The difference of two figures that were measured on different samples."""

from __future__ import annotations

import math

from .intervals import Interval


def difference_of_independent(before: Interval, after: Interval) -> Interval:
    """Return the second figure minus the first, its interval made of the intervals of both.

    Args:
        before: of the first figure.
        after: of the second, on samples independent of the first, with the same confidence. A nan in either gives nan.

    Returns:
        With the smaller number of samples as n.

    Source: Zou & Donner, "Construction of confidence limits about effect measures: a general approach", Statistics in
    Medicine 2008 (MOVER); with Wilson's intervals it is Newcombe's method 10, Statistics in Medicine 1998.
    """
    value = after.value - before.value
    lower = value - math.hypot(after.value - after.lower, before.upper - before.value)
    upper = value + math.hypot(after.upper - after.value, before.value - before.lower)
    return Interval(value, lower, upper, min(before.n, after.n))
