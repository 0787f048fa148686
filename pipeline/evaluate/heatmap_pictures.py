"""Heatmaps of the original, of the preferred correction, and what changed, as pictures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.models.build import AuditModel
from pipeline.workspace import pictures
from pipeline.workspace.records import EvaluationPicture

from .explanations import Explaining, Held, logits_of, relevance_of
from .pictures import Explained, heatmap_sheet, predictions
from .rows import shown_models

CAPTIONS = {
    "attacked": "Test samples with the artifact (outlined), heatmaps for the true class",
    "asis": "Test samples as they are, heatmaps for the true class",
}


def picture_heatmaps(
    explaining: Explaining, models: Mapping[str, AuditModel], preferred: str | None
) -> list[EvaluationPicture]:
    """Draw heatmaps of the original beside those of the preferred correction; none where there is no correction.

    Signals have no pictures.

    Args:
        explaining: what it needs.
        models: name -> model.
        preferred: the correction that the contest prefers.
    """
    count, shown = explaining.context.config.evaluate.pictured_samples, shown_models(models, preferred)
    if not count or len(shown) < 2 or len(explaining.worlds.asis.shape) != 3:
        return []
    drawn = []
    for world, held in explaining.held.items():
        some = held.first(count)
        path = f"evaluate/heatmaps-{world}.png"
        masks = None if any(mask is None for mask in some.artifact) else np.stack(some.artifact)
        classes = explaining.worlds.asis.classes
        captions = [f"{name}\nclass {classes[label]}" for name, label in zip(some.ids, some.y.tolist(), strict=True)]
        both = [_explained(explaining, name, model, some) for name, model in shown.items()]
        pictures.save(heatmap_sheet(some.x.numpy(), captions, *both, masks), explaining.context.directory.root / path)
        drawn.append(
            EvaluationPicture(kind="heatmaps", bias=None, path=path, caption=CAPTIONS[world], samples=some.ids)
        )
    return drawn


def _explained(explaining: Explaining, name: str, model: AuditModel, held: Held) -> Explained:
    """Return heatmaps as shares of all relevance, so that those of two models can be subtracted."""
    heatmaps = relevance_of(model, held.x, held.y, explaining.composite, explaining.device).sum(1)
    total = np.abs(heatmaps).sum((1, 2), keepdims=True)
    shares = np.divide(heatmaps, total, out=np.zeros_like(heatmaps), where=total > 0)
    logits = logits_of(model, held.x, explaining.device)
    return Explained(name, shares, predictions(logits, explaining.worlds.asis.classes))
