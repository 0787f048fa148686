"""Logits for many samples."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pipeline.data.batches import Batches
from pipeline.data.dataset import AuditDataset

from .modes import evaluation_mode


def predict_logits(
    model: nn.Module, dataset: AuditDataset, indices: np.ndarray, *, batch_size: int = 256, device: str = "cpu"
) -> np.ndarray:
    """Return logits `[len(indices), K]` in evaluation mode; training flags are given back afterwards."""
    with evaluation_mode(model), torch.no_grad():
        parts = [model(batch.x.to(device)).float().cpu() for batch in Batches(dataset, indices, batch_size)]
    return torch.cat(parts).numpy()
