"""How well masks and heatmaps agree with a known region; nan says that there is nothing to measure."""

from __future__ import annotations

import math

import numpy as np


def intersection_over_union(mask: np.ndarray, expected: np.ndarray) -> float:
    """Return |A and B| / |A or B| of two boolean masks `[H, W]`, in [0, 1]; nan where nothing is expected."""
    return float((mask & expected).sum() / (mask | expected).sum()) if expected.any() else math.nan


def dice(mask: np.ndarray, expected: np.ndarray) -> float:
    """Return 2 |A and B| / (|A| + |B|) of two boolean masks `[H, W]`, in [0, 1]; nan where nothing is expected.

    Source: Dice, "Measures of the amount of ecologic association between species", Ecology 1945.
    """
    return float(2 * (mask & expected).sum() / (mask.sum() + expected.sum())) if expected.any() else math.nan


def mask_auprc(heatmap: np.ndarray, expected: np.ndarray) -> float:
    """Return the area under the precision-recall curve of heatmap values against true pixels, in [0, 1].

    It is the average precision: steps, no interpolation, and pixels of equal value count together. A heatmap that says
    nothing gives about the share of the image that the region covers.

    Args:
        heatmap: `[H, W]`, larger = rather the region.
        expected: booleans `[H, W]`. Where no pixel or every pixel is true, or the heatmap is constant, empty or not
            finite: nan.
    """
    if not _measurable(heatmap, expected) or expected.all() or heatmap.max() == heatmap.min():
        return math.nan
    order = np.argsort(-heatmap, axis=None, kind="stable")
    values, true = heatmap.ravel()[order], expected.ravel()[order]
    ends = np.flatnonzero(np.append(values[1:] != values[:-1], True))
    hits = np.cumsum(true)[ends]
    return float((np.diff(hits, prepend=0) * hits / (ends + 1)).sum() / hits[-1])


def pointing_hit(heatmap: np.ndarray, expected: np.ndarray, tolerance: int = 0) -> float:
    """Return 1 where the largest value of a heatmap lies in the region or near it, else 0 (the pointing game).

    Of several largest values each counts in proportion.

    Args:
        heatmap: `[H, W]`.
        expected: booleans `[H, W]`. Where none is true, or the heatmap is constant, empty or not finite: nan.
        tolerance: distance in pixels (Euclidean) up to which a miss counts as a hit.

    Source: Zhang et al., "Top-down neural attention by excitation backprop", IJCV 2018; there the tolerance is 15.
    """
    if not _measurable(heatmap, expected) or heatmap.max() == heatmap.min():
        return math.nan
    peaks = heatmap == heatmap.max()
    if tolerance == 0:
        return float(expected[peaks].mean())
    from scipy.ndimage import distance_transform_edt

    return float((distance_transform_edt(~expected)[peaks] <= tolerance).mean())


def relevance_share(heatmap: np.ndarray, expected: np.ndarray) -> float:
    """Return the share of a heatmap that lies in the region, sum of R m over sum of R, in [0, 1].

    Args:
        heatmap: `[H, W]`, non-negative.
        expected: booleans `[H, W]`. Where none is true, or the heatmap is empty, zero or not finite: nan.
    """
    if not _measurable(heatmap, expected):
        return math.nan
    total = heatmap.sum(dtype=np.float64)
    return float(heatmap[expected].sum(dtype=np.float64) / total) if total > 0 else math.nan


def relevance_ratio(heatmap: np.ndarray, expected: np.ndarray) -> float:
    """Return `relevance_share` over the share of the image that the region covers.

    1 = a heatmap that does not know the region; at most the reciprocal of the region's area. nan as for the share.
    """
    return relevance_share(heatmap, expected) / expected.mean() if expected.any() else math.nan


def _measurable(heatmap: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether there are a region and finite values."""
    return bool(expected.any() and np.isfinite(heatmap).all())
