"""Confidence intervals: Wilson's for shares, the bootstrap for everything else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, stdtrit

from ..errors import DataError
from .checks import equal_lengths

CHUNK_VALUES = 2**22
"""How many resampled values are held at once, so that memory does not grow with the number of resamples."""


class Interval(NamedTuple):
    """A figure with its confidence interval; nan where there is nothing to measure.

    Attributes:
        value: the point estimate.
        lower: lower bound.
        upper: upper bound.
        n: number of samples that it rests on.
    """

    value: float
    lower: float
    upper: float
    n: int


def unmeasured(n: int) -> Interval:
    """Return the interval of a figure that `n` samples do not define."""
    return Interval(math.nan, math.nan, math.nan, n)


def normal_quantile(confidence: float) -> float:
    """Return how many standard errors a two-sided interval reaches to either side; 1.96 for 0.95."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Return the share of successes with Wilson's score interval, which holds its level near 0 and 1.

    Args:
        successes: count in 0..n.
        n: number of trials; 0 gives nan.
        confidence: in (0, 1).

    Raises:
        DataError: when the count lies outside 0..n.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    """
    successes, n = int(successes), int(n)
    if not 0 <= successes <= n:
        raise DataError(f"{successes} successes in {n} trials: the count must lie in 0..{n}. Check what was counted.")
    if n == 0:
        return unmeasured(0)
    share = successes / n
    return Interval(share, *score_bounds(share, n, confidence), n)


def score_bounds(share: float, size: float, confidence: float) -> tuple[float, float]:
    """Return Wilson's bounds of a share in [0, 1] of `size` trials, which need not be a whole number."""
    z = normal_quantile(confidence)
    centre = (share + z * z / (2 * size)) / (1 + z * z / size)
    reach = z * math.sqrt(share * (1 - share) / size + z * z / (4 * size * size)) / (1 + z * z / size)
    # At the ends the bound is exactly 0 or 1; rounding must not move it.
    return 0.0 if share == 0 else centre - reach, 1.0 if share == 1 else centre + reach


def enclosing(value: float, lower: float, upper: float, n: int) -> Interval:
    """Return the interval, widened to hold the value where simulated bounds pass it by."""
    return Interval(float(value), float(min(lower, value)), float(max(upper, value)), n)


def percentile_interval(value: float, resampled: np.ndarray, n: int, confidence: float) -> Interval:
    """Return the value with the central share `confidence` of its resampled values `[R]` as bounds."""
    lower, upper = np.quantile(resampled, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(float(value), float(lower), float(upper), n)


def widened(confidence: float, n: int) -> float:
    """Return which central share of the resampled values makes an interval of the asked confidence with `n` rows.

    Resampled means vary less than means do, by a factor n - 1 over n, and a percentile interval takes the spread for
    known. Source: Hesterberg, "What teachers should know about the bootstrap", The American Statistician 2015, expanded
    percentiles.
    """
    if n < 2:
        return confidence
    return 1 - 2 * float(ndtr(-math.sqrt(n / (n - 1)) * stdtrit(n - 1, 0.5 + confidence / 2)))


def bootstrap(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], float] = np.mean,
    *,
    strata: np.ndarray | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return a statistic of the rows with its percentile bootstrap interval (Efron 1979), wider for few rows.

    Args:
        values: `[N]` or `[N, K]`; whole rows are drawn with replacement. N = 0 gives nan.
        statistic: takes an array shaped like `values` and returns one number. The mean is computed for many
            resamples at once.
        strata: `[N]`; when given, every stratum keeps its number of rows in every resample.
        resamples: number of resamples R.
        confidence: in (0, 1).
        seed: the same seed and input give the same interval.

    Raises:
        DataError: when `strata` is not as long as `values`.
    """
    values = np.asarray(values)
    n = len(values)
    if n == 0:
        return unmeasured(0)
    if strata is not None:
        equal_lengths(values=values, strata=strata)
    vectorised = statistic is np.mean
    if vectorised:
        # The mean over everything equals the mean of the row means, because all rows are equally long.
        values = values.reshape(n, -1).mean(axis=1, dtype=np.float64)
    order, low, high = _slots(n, strata)
    rng = np.random.default_rng(seed)
    results = []
    chunk = max(1, CHUNK_VALUES // n)
    for start in range(0, resamples, chunk):
        drawn = order[rng.integers(low, high, size=(min(chunk, resamples - start), n))]
        if vectorised:
            results.extend(values[drawn].mean(axis=1))
        else:
            results.extend(float(statistic(values[rows])) for rows in drawn)
    return percentile_interval(statistic(values), np.asarray(results), n, widened(confidence, n))


def _slots(n: int, strata: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | int, np.ndarray | int]:
    """Return the rows sorted by stratum `[N]`, and for each place in a resample the range it is drawn from."""
    if strata is None:
        return np.arange(n), 0, n
    _, stratum, counts = np.unique(strata, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    order = np.argsort(stratum, kind="stable")
    return order, np.repeat(ends - counts, counts), np.repeat(ends, counts)


def over_seeds(intervals: Sequence[Interval], confidence: float = 0.95) -> Interval:
    """Return the mean over several trainings, its interval covering the test samples and the choice of seeds.

    Each side is the root of two squares: that of the mean square of the intervals' own sides, since all trainings are
    measured on the same samples, and that of Student's interval of the mean over seeds.

    Args:
        intervals: of the same figure on the same samples, one for each seed; those that are nan make the result nan.
        confidence: in (0, 1), that of the intervals.
    """
    from scipy.stats import t

    values = np.array([each.value for each in intervals])
    n, seeds = intervals[0].n, len(intervals)
    if seeds == 1 or not np.isfinite(values).all():
        return intervals[0] if seeds == 1 else unmeasured(n)
    lower = values - np.array([each.lower for each in intervals])
    upper = np.array([each.upper for each in intervals]) - values
    reach = t.ppf(0.5 + confidence / 2, seeds - 1) * values.std(ddof=1) / math.sqrt(seeds)
    value = float(values.mean())
    bounds = value - np.sqrt((lower**2).mean() + reach**2), value + np.sqrt((upper**2).mean() + reach**2)
    if all(0 <= each.lower and each.upper <= 1 for each in intervals):
        bounds = max(bounds[0], 0.0), min(bounds[1], 1.0)
    return Interval(value, float(bounds[0]), float(bounds[1]), n)
