"""Logits for many samples."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pipeline.data.batches import Batches
from pipeline.data.dataset import AuditDataset


def predict_logits(
    model: nn.Module, dataset: AuditDataset, indices: np.ndarray, *, batch_size: int = 256, device: str = "cpu"
) -> np.ndarray:
    """Return logits `[len(indices), K]` in evaluation mode; the model's training flag is restored."""
    training = model.training
    model.eval()
    with torch.no_grad():
        parts = [model(batch.x.to(device)).float().cpu() for batch in Batches(dataset, indices, batch_size)]
    model.train(training)
    return torch.cat(parts).numpy()
