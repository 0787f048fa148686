"""How much relevance lies in the background, where the region of interest is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.errors import DataError


class BackgroundShares(NamedTuple):
    """Shares per sample `[N]`, in [0, 1]; both are nan where relevance is zero or no foreground is known.

    Attributes:
        relevance: of |relevance| outside the foreground.
        area: of the image outside the foreground; relevance that is spread evenly has this share there.
    """

    relevance: np.ndarray
    area: np.ndarray


def background_relevance_share(relevance: np.ndarray, foreground: Sequence[np.ndarray | None]) -> BackgroundShares:
    """Return how much of each sample's relevance lies outside its foreground, and how much of its image.

    Args:
        relevance: signed, `[N, ..., H, W]` (signals: `[N, ..., T]`); magnitudes are added over the axes between.
        foreground: booleans `[H, W]` (or `[T]`) of each sample; None, or nowhere true, where it is not known.

    Raises:
        DataError: another number of masks than samples, or a mask of another size.
    """
    if len(foreground) != len(relevance):
        raise DataError(
            f"there are {len(relevance)} heatmaps and {len(foreground)} foreground masks; give one for each."
        )
    shares = [_shares(*each) for each in zip(relevance, foreground, strict=True)]
    return BackgroundShares(*np.array(shares, dtype=np.float64).reshape(-1, 2).T)


def _shares(relevance: np.ndarray, mask: np.ndarray | None) -> tuple[float, float]:
    if mask is None or not mask.any():
        return np.nan, np.nan
    if relevance.shape[-mask.ndim :] != mask.shape:
        raise DataError(
            f"A foreground mask is {list(mask.shape)}, but its heatmap is {list(relevance.shape)}. "
            "Resize it in the data set (data.roi_masks)."
        )
    magnitude = np.abs(relevance.astype(np.float64)).sum(tuple(range(relevance.ndim - mask.ndim)))
    total, outside = magnitude.sum(), ~mask.astype(bool)
    return (magnitude[outside].sum() / total, outside.mean()) if total > 0 else (np.nan, np.nan)
