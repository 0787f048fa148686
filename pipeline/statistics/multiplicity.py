"""P values of several tests at once."""

from __future__ import annotations

import numpy as np


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return the p values adjusted so that comparing each with a level bounds the chance of any false alarm by it.

    Args:
        p_values: `[M]` in [0, 1]; nan = not tested, which does not count and stays nan.

    Returns:
        `[M]` in [0, 1], none below its p value and in the same order; equal p values stay equal.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 1979.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    adjusted = np.full(p_values.shape, np.nan)
    hypotheses_left = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(hypotheses_left * p_values[order]), 1.0)
    return adjusted
