"""Where in the input a concept sits: relevance started at a CAV, blurred and thresholded; and how well that worked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from pipeline.attribution import Explainer
from pipeline.errors import DataError
from pipeline.models.trace import ChannelAxes
from pipeline.statistics import auroc

from .cav import Cav

OTSU_BINS = 256


def concept_start(activation: torch.Tensor, cav: Cav, *, baseline: bool = True) -> torch.Tensor:
    """Return the relevance `[N, C, ...]` from which a concept is traced back: max(a - baseline, 0) * direction.

    Only what exceeds the usual level of samples without the concept counts; started from the whole activation,
    relevance would mostly lead to contents that every sample shares.

    Args:
        activation: `[N, C, ...positions]`, channels first.
        cav: a direction over channels, or over channels and positions (pooling "full").
        baseline: false for max(a, 0) * direction, as published (Anders et al., Finding and removing Clever Hans, 2022;
            Pahde et al., Reveal to Revise, 2023).

    Raises:
        DataError: the direction does not belong to such a layer.
    """
    usual = at_positions(cav.baseline, activation) if baseline else 0.0
    return (activation - usual).clamp(min=0) * at_positions(cav.direction, activation)


def at_positions(values: np.ndarray, activation: torch.Tensor) -> torch.Tensor:
    """Return the values of a direction or baseline in a shape that broadcasts to `activation`.

    Args:
        values: `[C]`, the same at every position; or `[C * cells]`, flattened from `[C, ...cells]`, where cells are all
            positions or a grid over them: each position then has the value of its cell.
        activation: `[N, C, ...positions]`, channels first; gives type and device.

    Raises:
        DataError: the length fits neither.
    """
    channels, positions = activation.shape[1], tuple(activation.shape[2:])
    found = torch.as_tensor(values, dtype=activation.dtype, device=activation.device)
    if len(values) == channels:
        return found.view(1, -1, *[1] * len(positions))
    found = found.view(1, channels, *cells_over(len(values), channels, positions))
    return torch.nn.functional.interpolate(found, size=positions, mode="nearest-exact")


def cells_over(length: int, channels: int, positions: tuple[int, ...]) -> tuple[int, ...]:
    """Return the cells `(min(g, P), ...)` of the grid over positions `(P, ...)` to which a direction belongs.

    Raises:
        DataError: no grid, nor all positions, gives a direction of that length.
    """
    for side in range(1, max(positions, default=0) + 1):
        cells = tuple(min(side, size) for size in positions)
        if channels * int(np.prod(cells)) == length:
            return cells
    raise DataError(
        f"a concept activation vector of {length:,} values does not fit a layer with {channels:,} channels and "
        f"positions {positions}; allowed is one value per channel, or per channel and cell of a grid over the "
        "positions. Start reveal again, with --force."
    )


def concept_heatmaps(
    explainer: Explainer, x: torch.Tensor, cav: Cav, *, baseline: bool = True, axis: int | None = None
) -> np.ndarray:
    """Return non-negative heatmaps `[N, H, W]` of the concept in images `[N, C, H, W]`; `[N, T]` for signals.

    Args:
        explainer: made for the model that the CAV belongs to.
        x: inputs.
        cav: the concept.
        baseline: see `concept_start`.
        axis: where the layer has its channels, 1 or -1; None finds it by running the model once.

    Raises:
        ValueError: the model has no such layer.
    """
    axis = ChannelAxes(explainer.model).of(cav.layer, x) if axis is None else axis
    return relevance_heatmaps(
        explainer, x, cav.layer, lambda activation: concept_start(activation, cav, baseline=baseline), axis=axis
    )


def relevance_heatmaps(
    explainer: Explainer,
    x: torch.Tensor,
    layer: str,
    start: Callable[[torch.Tensor], torch.Tensor],
    *,
    axis: int = 1,
) -> np.ndarray:
    """Return the positive part `[N, H, W]` or `[N, T]` of input relevance that starts inside the network.

    Args:
        explainer: made for the model.
        x: inputs `[N, C, H, W]` or `[N, C, T]`.
        layer: where relevance starts.
        start: the layer's activation `[N, C, ...positions]`, channels first -> relevance of the same shape.
        axis: where the layer has its channels, 1 or -1.
    """
    found = explainer.attribute(
        x,
        start_layer=layer,
        start_relevance=lambda activation: start(activation.movedim(axis, 1)).movedim(1, axis),
    )
    return found.heatmap.clamp(min=0).cpu().numpy()


def blur(heatmaps: np.ndarray, share: float) -> np.ndarray:
    """Smooth heatmaps `[N, H, W]` or `[N, T]` by a Gaussian; its deviation is a share of the larger side.

    A share of 0 leaves them as they are.
    """
    from scipy.ndimage import gaussian_filter

    deviation = share * max(heatmaps.shape[1:])
    axes = heatmaps.ndim - 1
    return gaussian_filter(heatmaps, (0, *[deviation] * axes)) if deviation > 0 else heatmaps


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


def binarize(
    heatmap: np.ndarray,
    threshold: str = "otsu",
    percentile: float = 92.0,
    *,
    area: float = 0.05,
    fixed: float = 0.3,
    min_component: float = 0.0,
) -> np.ndarray | None:
    """Return the mask of a heatmap, or None where it is empty or constant: no evidence is not a mask.

    Args:
        heatmap: `[H, W]` or `[T]`, non-negative.
        threshold: "otsu"; "percentile" of the heatmap's own values; "area", the strongest share of positions, of which
            only those above the heatmap's smallest value count; "fixed", what exceeds a share of the largest value.
        percentile: in (0, 100), for "percentile".
        area: in (0, 1), for "area"; positions that equal the weakest one kept are kept as well.
        fixed: in (0, 1), for "fixed".
        min_component: connected regions (also over corners) that cover less than this share of the positions are left
            out; where none remains there is no mask.

    Returns:
        Booleans in the shape of the heatmap, or None.

    Raises:
        ValueError: an unknown threshold.
    """
    if not np.isfinite(heatmap).all() or heatmap.max() - heatmap.min() <= 1e-12:
        return None
    if threshold == "otsu":
        mask = heatmap > otsu_threshold(heatmap)
    elif threshold == "percentile":
        mask = heatmap > np.percentile(heatmap, percentile)
    elif threshold == "area":
        count = max(1, round(area * heatmap.size))
        mask = (heatmap >= np.partition(heatmap, -count, axis=None)[-count]) & (heatmap > heatmap.min())
    elif threshold == "fixed":
        mask = heatmap > fixed * heatmap.max()
    else:
        raise ValueError(f"unknown threshold '{threshold}'; allowed: otsu, percentile, area, fixed")
    mask = without_small_components(mask, min_component)
    return mask if mask.any() else None


def without_small_components(mask: np.ndarray, share: float) -> np.ndarray:
    """Return a mask `[H, W]` or `[T]` without connected regions that cover less than a share of all positions."""
    from scipy.ndimage import label

    if share <= 0:
        return mask
    labels, _ = label(mask, np.ones([3] * mask.ndim))
    large = np.bincount(labels.ravel()) >= share * mask.size
    large[0] = False
    return large[labels]


def dilate(masks: np.ndarray, share: float) -> np.ndarray:
    """Grow masks `[N, H, W]` by a disc, its radius a share of the larger side, at least one pixel; 0 leaves them.

    Masks `[N, T]` grow by that radius to both sides.
    """
    from scipy.ndimage import binary_dilation

    if share <= 0:
        return masks
    radius = max(1, round(share * max(masks.shape[1:])))
    axes = np.meshgrid(*[np.arange(-radius, radius + 1)] * (masks.ndim - 1))
    disc = sum(axis**2 for axis in axes) <= radius**2
    return np.stack([binary_dilation(mask, disc) for mask in masks]) if len(masks) else masks


def localization_quality(with_concept: np.ndarray, without: np.ndarray, *, blur_share: float = 0.04) -> float:
    """Return how well heatmaps localize a concept, in [0, 1], from samples with and without it; no truth is needed.

    Sharpness times specificity. Sharpness: the share of the relevance that lies in the Otsu mask of the blurred
    heatmap, less the share of the positions that the mask covers; the mean over samples with the concept. Specificity:
    2 AUROC - 1, at least 0, of the total relevance between samples with and without the concept. A diffuse map has
    about as much relevance as area in its mask, and a map that lights up in every sample has an AUROC of 1/2; a small
    region that only lights up with the concept comes near 1.

    Args:
        with_concept: non-negative heatmaps `[N, H, W]` or `[N, T]`, before any blur, of samples that show the concept.
        without: the same `[M, ...]` of samples that do not. Maps that are empty or not finite count as no relevance.
        blur_share: see `blur`; unless smoothed, single bright pixels all over the image would look sharp.

    Raises:
        ValueError: no samples with, or none without the concept.
    """
    if not len(with_concept) or not len(without):
        raise ValueError(
            "localization quality needs samples with and without the concept; "
            f"got {len(with_concept)} and {len(without)}"
        )
    totals = np.concatenate([_totals(with_concept), _totals(without)])
    shown = np.arange(len(totals)) < len(with_concept)
    specificity = max(0.0, 2 * auroc(totals, shown).value - 1)
    if specificity == 0:
        return 0.0
    sharpness = np.mean([_sharpness(heatmap) for heatmap in blur(with_concept, blur_share)])
    return float(np.clip(sharpness * specificity, 0, 1))


def _totals(heatmaps: np.ndarray) -> np.ndarray:
    totals = heatmaps.reshape(len(heatmaps), -1).sum(1, dtype=np.float64)
    return np.where(np.isfinite(totals), totals, 0.0)


def _sharpness(heatmap: np.ndarray) -> float:
    mask = binarize(heatmap)
    return 0.0 if mask is None else float(heatmap[mask].sum() / heatmap.sum() - mask.mean())
