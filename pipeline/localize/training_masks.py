"""The masks that training reads: what is foreground, how masks are merged, and how they change size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from pipeline.concepts.localization import dilate as grow

Background = Literal["artifact", "roi", "union"]
ROUNDING = 1e-9
"""What rounding may do to the covered share of a cell."""


def foreground_mask(
    artifact: np.ndarray | None, roi: np.ndarray | None, background: Background, dilate: float
) -> np.ndarray | None:
    """Return what a classifier may use, or None where a sample has no mask and adds nothing to the heatmap loss.

    | background | 0 = background is | without ROI | without artifact |
    |---|---|---|---|
    | "artifact" | the grown artifact | the same | None |
    | "roi" | all outside the ROI; an artifact inside it stays foreground | None | the same |
    | "union" | the grown artifact and all outside the ROI | the grown artifact | all outside the ROI |

    Nothing may be left of the foreground; such a mask cannot train anything, see Bassi et al. 2024, whose loss is flat
    there.

    Args:
        artifact: booleans `[H, W]` or `[T]`; several artifacts are merged before.
        roi: region of interest, of the same shape.
        background: which rule.
        dilate: the artifact grows by this share of the larger side; the ROI stays as it is.

    Returns:
        Booleans of the same shape, True = foreground.

    Raises:
        ValueError: the shapes differ.
    """
    if artifact is not None and roi is not None and artifact.shape != roi.shape:
        raise ValueError(f"artifact {list(artifact.shape)} and region of interest {list(roi.shape)} differ in shape")
    excluded = []
    if artifact is not None and background != "roi":
        excluded.append(grow(artifact[None], dilate)[0])
    if roi is not None and background != "artifact":
        excluded.append(~roi)
    return ~merge_masks(excluded) if excluded else None


def merge_masks(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Return the union of masks of several artifacts: booleans, or the largest of soft values in [0, 1].

    Raises:
        ValueError: there are none, or their shapes differ.
    """
    shapes = {mask.shape for mask in masks}
    if len(shapes) != 1:
        raise ValueError(f"masks of one shape are needed, not {sorted(map(list, shapes))}")
    return np.maximum.reduce(list(masks))


def resize_mask(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a mask `[H, W]` or `[T]` at another size.

    Booleans by exact area: a cell belongs to the mask if at least half of it is covered, so areas are kept on average
    and a mask shrinks or grows on neither side. A mask of which no cell is half covered (a hair) becomes all cells that
    it touches instead of nothing. Soft values by antialiased bilinear interpolation, which keeps them between the
    smallest and the largest. (Inside the heatmap loss, ISNet resizes otherwise: there a cell is foreground if it
    touches any; see `fit_mask` in `mitigate/isnet.py`.)

    Raises:
        ValueError: the number of axes differs, or one is empty.
    """
    if mask.ndim != len(shape) or mask.ndim not in (1, 2) or 0 in (*mask.shape, *shape):
        raise ValueError(f"a mask {list(mask.shape)} cannot be resized to {list(shape)}")
    if mask.shape == tuple(shape):
        return mask
    if mask.dtype != bool:
        return _interpolated(mask, shape)
    share = mask.astype(np.float64)
    for axis, length in enumerate(shape):
        share = _means(share, axis, length)
    covered = share >= 0.5 - ROUNDING
    return covered if covered.any() else share > ROUNDING


def _means(values: np.ndarray, axis: int, length: int) -> np.ndarray:
    """Return the means over `length` equal parts of an axis; a part's border may cut through a value."""
    values = np.moveaxis(values, axis, -1)
    old = values.shape[-1]
    sums = np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)
    whole, rest = np.divmod(np.arange(length + 1) * old, length)
    # the value after the last is never cut, so it may stand for any
    until = sums[..., whole] + rest / length * values[..., np.minimum(whole, old - 1)]
    return np.moveaxis(np.diff(until, axis=-1), -1, axis) * length / old


def _interpolated(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    from PIL import Image

    plane = Image.fromarray(np.atleast_2d(values).astype(np.float32))
    height, width = (1, *shape)[-2:]
    # Pillow widens the bilinear kernel when it shrinks an image, which is the antialiasing
    found = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))
    return np.clip(found, values.min(), values.max()).reshape(shape).astype(values.dtype)
