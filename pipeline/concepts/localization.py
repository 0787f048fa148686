"""Where in the input a concept sits: relevance started at a CAV, blurred and thresholded."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.attribution import Explainer

from .cav import Cav

OTSU_BINS = 256


def concept_start(activation: torch.Tensor, cav: Cav) -> torch.Tensor:
    """Return the relevance `[N, C, ...]` from which a concept is traced back: max(a - baseline, 0) * direction.

    Only what exceeds the usual level of samples without the concept counts; started from the whole activation,
    relevance would mostly lead to contents that every sample shares.
    """
    shape = (1, -1, *[1] * (activation.ndim - 2))
    direction = torch.as_tensor(cav.direction, dtype=activation.dtype, device=activation.device).view(shape)
    baseline = torch.as_tensor(cav.baseline, dtype=activation.dtype, device=activation.device).view(shape)
    return (activation - baseline).clamp(min=0) * direction


def concept_heatmaps(explainer: Explainer, x: torch.Tensor, cav: Cav) -> np.ndarray:
    """Return non-negative heatmaps `[N, H, W]` of the concept in images `[N, C, H, W]`."""
    found = explainer.attribute(
        x, start_layer=cav.layer, start_relevance=lambda activation: concept_start(activation, cav)
    )
    return found.heatmap.clamp(min=0).cpu().numpy()


def blur(heatmaps: np.ndarray, share: float) -> np.ndarray:
    """Smooth heatmaps `[N, H, W]` by a Gaussian whose deviation is this share of the larger side; 0 leaves them."""
    from scipy.ndimage import gaussian_filter

    deviation = share * max(heatmaps.shape[1:])
    return gaussian_filter(heatmaps, (0, deviation, deviation)) if deviation > 0 else heatmaps


def otsu_threshold(values: np.ndarray) -> float:
    """Return the threshold that separates two groups of values best (Otsu 1979: largest between-class variance)."""
    counts, edges = np.histogram(values, OTSU_BINS)
    centers = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centers)
    mean_below = sums / np.maximum(below, 1)
    mean_above = (sums[-1] - sums) / np.maximum(above, 1)
    return float(centers[np.argmax(below * above * (mean_below - mean_above) ** 2)])


def binarize(heatmap: np.ndarray, threshold: str = "otsu", percentile: float = 92.0) -> np.ndarray | None:
    """Return the mask `[H, W]` of a heatmap, or None where it is empty or constant: no evidence is not a mask.

    Args:
        heatmap: `[H, W]`, non-negative.
        threshold: "otsu", or "percentile" of the heatmap's own values.
        percentile: in (0, 100), for "percentile".
    """
    if not np.isfinite(heatmap).all() or heatmap.max() - heatmap.min() <= 1e-12:
        return None
    level = otsu_threshold(heatmap) if threshold == "otsu" else np.percentile(heatmap, percentile)
    mask = heatmap > level
    return mask if mask.any() else None


def dilate(masks: np.ndarray, share: float) -> np.ndarray:
    """Grow masks `[N, H, W]` by a disc, its radius a share of the larger side, at least one pixel; 0 leaves them."""
    from scipy.ndimage import binary_dilation

    if share <= 0:
        return masks
    radius = max(1, round(share * max(masks.shape[1:])))
    grid = np.arange(-radius, radius + 1)
    disc = grid[:, None] ** 2 + grid[None] ** 2 <= radius**2
    return np.stack([binary_dilation(mask, disc) for mask in masks]) if len(masks) else masks
