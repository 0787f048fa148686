"""Pooled activations of a layer for chosen rows of a data set."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pipeline.data.batches import Batches
from pipeline.data.dataset import AuditDataset
from pipeline.workspace.features import FeatureStore


def cav_features(store: FeatureStore, layer: str, pooling: str, rows: np.ndarray) -> np.ndarray:
    """Return what a CAV is fitted on, `[len(rows), D]`: activations pooled by "max" or "mean", or "full" maps, flat."""
    if pooling == "full":
        return store.activation_maps(layer, rows).reshape(len(rows), -1)
    return store.activations(layer, pooling, rows)


def layer_features(
    model: nn.Module, dataset: AuditDataset, rows: np.ndarray, layer: str, pooling: str = "max", *, device: str = "cpu",
    batch_size: int = 256,
) -> np.ndarray:  # fmt: skip
    """Return activations `[len(rows), C]` of a layer, pooled over positions by "max" or "mean"."""
    kept: list[torch.Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _, __, output: kept.append(output))
    parts = []
    try:
        with torch.no_grad():
            for batch in Batches(dataset, rows, batch_size):
                kept.clear()
                model(batch.x.to(device))
                flat = kept[0].flatten(2) if kept[0].ndim > 2 else kept[0][..., None]
                parts.append((flat.amax(2) if pooling == "max" else flat.mean(2)).cpu())
    finally:
        handle.remove()
    return torch.cat(parts).numpy()
