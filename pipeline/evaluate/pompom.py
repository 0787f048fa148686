"""How much of a heatmap's attention is spread outside the region of interest (POMPOM)."""

from __future__ import annotations

import math

import numpy as np

EPSILON = 1e-6
THRESHOLD = 0.05


def pompom(heatmap: np.ndarray, mask: np.ndarray | None, epsilon: float = EPSILON) -> float:
    """Return the percentage of meaningful pixels outside the mask as a share in [0, 1): lower is better.

    Number of pixels with (1 - m) |h| > epsilon, over the number of those with (1 - m) > epsilon. Maps that are nowhere
    exactly 0 reach about 1 whatever they show: read it beside `pompom_scaled`.

    Args:
        heatmap: h `[H, W]`.
        mask: m `[H, W]` in [0, 1], 1 in the region of interest; with 1 everywhere the share is 0. None where it is not
            known: nan.
        epsilon: from where a pixel counts, in units of the heatmap. A heatmap without any such pixel says nothing: nan,
            as for one that is not finite.

    Source: Rio-Torto, Fernandes and Teixeira, "Understanding the decisions of CNNs: an in-model approach", Pattern
    Recognition Letters 2020.
    """
    return _share_outside(np.abs(heatmap), mask, epsilon)


def pompom_scaled(heatmap: np.ndarray, mask: np.ndarray | None, threshold: float = THRESHOLD) -> float:
    """Return the same for |h| over its maximum: meaningful is what exceeds that share of the strongest pixel.

    It does not change when the heatmap is scaled. A heatmap of zeros gives nan.
    """
    size = np.abs(heatmap)
    strongest = size.max()
    return _share_outside(size / strongest, mask, threshold) if strongest > 0 else math.nan


def _share_outside(size: np.ndarray, mask: np.ndarray | None, least: float) -> float:
    """Return how much of what lies outside the mask exceeds `least`; nan where nothing does anywhere."""
    if mask is None or not np.isfinite(size).all() or not (size > least).any():
        return math.nan
    outside = 1 - np.asarray(mask, dtype=np.float64)
    return float((outside * size > least).sum() / ((outside > EPSILON).sum() + EPSILON))
