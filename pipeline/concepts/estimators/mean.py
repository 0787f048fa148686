"""The difference of the groups' means: for labels that are true or false the same direction as the pattern."""

from __future__ import annotations

import numpy as np

from .linear import Linear


def fit(features: np.ndarray, labels: np.ndarray) -> Linear:
    """Return the mean of features `[N, D]` where `labels` `[N]` are true, less the mean of the others."""
    shifted = features - features[0]  # a constant feature is exactly 0, however its mean is rounded
    return Linear(shifted[labels].mean(0) - shifted[~labels].mean(0))
