"""Logits of every model in every world, from test samples that are decoded once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from pipeline.data.batches import Batches, split_rows
from pipeline.data.dataset import AuditDataset
from pipeline.models.build import AuditModel
from pipeline.models.modes import evaluation_mode
from pipeline.workspace.progress import Reporter

Predictions = dict[str, dict[str, np.ndarray]]
"""Model -> world -> logits `[N, K]`."""


def predict_all(
    models: Mapping[str, AuditModel],
    views: Mapping[str, AuditDataset],
    rows: np.ndarray,
    *,
    batch_size: int,
    device: str,
    reporter: Reporter,
    label: str,
) -> Predictions:
    """Return the logits of all models on the same rows in all worlds.

    Batches are the outer loop: with views of one `Remembered` data set every sample is decoded once, and every world is
    painted once, however many models there are.

    Args:
        models: name -> model; training flags are given back afterwards.
        views: world -> data set.
        rows: which samples, in this order.
        batch_size: samples in a batch.
        device: where the models are.
        reporter: shows how far it is.
        label: of the progress bar.
    """
    parts: dict[str, dict[str, list[np.ndarray]]] = {name: {world: [] for world in views} for name in models}
    for batch_rows in reporter.track(split_rows(rows, batch_size), label):
        for world, view in views.items():
            (batch,) = Batches(view, batch_rows, batch_size)
            x = batch.x.to(device)
            for name, model in models.items():
                with evaluation_mode(model), torch.no_grad():
                    parts[name][world].append(model(x).float().cpu().numpy())
    return {name: {world: np.concatenate(each) for world, each in worlds.items()} for name, worlds in parts.items()}
