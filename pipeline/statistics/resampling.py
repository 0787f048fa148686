"""Bootstrap resamples as counts: how often every row was drawn, for many resamples at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

CHUNK_VALUES = 2**16
"""How many counts are made at once: few enough for the processor's cache."""


def resampled_counts(n: int, resamples: int, seed: int, strata: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Yield chunks `[r, N]` of how often each row is drawn with replacement, `resamples` rows in all.

    Args:
        n: number of rows N, at least 1.
        resamples: number of resamples.
        seed: the same seed and input give the same counts.
        strata: `[N]`; when given, every stratum keeps its number of rows in every resample.
    """
    members = [np.arange(n)] if strata is None else [np.flatnonzero(strata == each) for each in np.unique(strata)]
    rng = np.random.default_rng(seed)
    chunk = max(1, CHUNK_VALUES // n)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = np.empty((size, n), dtype=np.intp)
        end = 0
        for rows in members:
            first, end = end, end + len(rows)
            kind = np.uint16 if len(rows) < 2**16 else np.int64
            drawn[:, first:end] = rows[rng.integers(len(rows), size=(size, len(rows)), dtype=kind)]
        drawn += np.arange(size)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
