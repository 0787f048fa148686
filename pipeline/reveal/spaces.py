"""Samples as rows of numbers: pooled heatmaps, or relevances and activations of a layer."""

from __future__ import annotations

from typing import Literal

import numpy as np

from pipeline.config.reveal import Quantity

from .view import DataView

Normalization = Literal["l1", "l2", "none"]
GRID = 14
BLOCK = 1024


def space_features(
    data: DataView, rows: np.ndarray, space: str, *, quantity: Quantity = "relevance", grid: int = GRID
) -> np.ndarray:
    """Return features `[len(rows), D]`, float32, not normalised.

    Args:
        data: where features come from.
        rows: of the store.
        space: "input" for heatmaps, pooled to grid x grid cells (signals: to grid squared), or a layer.
        quantity: what is read of a layer.
        grid: cells per side.
    """
    if space == "input":
        blocks = np.array_split(rows, max(1, -(-len(rows) // BLOCK)))
        pooled = [pool_to_grid(data.store.heatmaps(data.condition, block), grid) for block in blocks]
        return np.concatenate(pooled).reshape(len(rows), -1)
    what, _, pooling = quantity.partition("_")
    if what == "activation":
        return data.store.activations(space, pooling, rows)
    return data.store.relevances(space, data.condition, rows, pooling or "sum")


def normalize_rows(features: np.ndarray, kind: Normalization = "l1") -> np.ndarray:
    """Divide each row `[D]` by the sum of its absolute values (l1) or its length (l2): the logit's size drops out.

    Signed sums would explode where positive and negative relevance cancel; rows of zeros stay zeros.
    """
    features = np.asarray(features, dtype=np.float32).reshape(len(features), -1)
    if kind == "none":
        return features
    sizes = np.abs(features).sum(1, keepdims=True) if kind == "l1" else np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(sizes, 1e-12)


def pool_to_grid(heatmaps: np.ndarray, grid: int) -> np.ndarray:
    """Return heatmaps `[N, H, W]` averaged over grid x grid cells (`[N, T]`: grid squared); smaller ones unchanged."""
    import torch
    from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d

    if heatmaps.ndim == 2:
        cells = grid * grid
        return (
            heatmaps if heatmaps.shape[1] <= cells else adaptive_avg_pool1d(torch.from_numpy(heatmaps), cells).numpy()
        )
    if max(heatmaps.shape[1:]) <= grid:
        return heatmaps
    return adaptive_avg_pool2d(torch.from_numpy(heatmaps)[:, None], grid)[:, 0].numpy()
