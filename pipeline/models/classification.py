"""The classification loss and the validation metrics of a training."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from pipeline.data.dataset import AuditDataset
from pipeline.models.predict import predict_logits


def class_weights(labels: np.ndarray, classes: int) -> torch.Tensor:
    """Return weights `[K]` inverse to class frequency, with mean 1 over the samples; 0 for absent classes."""
    counts = np.bincount(labels, minlength=classes).astype(float)
    present = counts > 0
    weights = np.where(present, len(labels) / np.maximum(counts, 1) / present.sum(), 0.0)
    return torch.tensor(weights, dtype=torch.float32)


def validation_metrics(
    model: torch.nn.Module, dataset: AuditDataset, indices: np.ndarray, device: str
) -> dict[str, float]:
    """Return loss, accuracy, balanced accuracy and (mean one-against-rest) AUROC on the rows.

    AUROC is NaN where no class has rows both inside and outside it; everything is NaN where a logit is not finite.
    """
    logits = predict_logits(model, dataset, indices, device=device)
    return classification_metrics(logits, dataset.table["label"].to_numpy()[indices])


def classification_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the metrics of `validation_metrics` for logits `[N, K]` and class ids `[N]`."""
    from sklearn.metrics import roc_auc_score

    if not np.isfinite(logits).all():
        return dict.fromkeys(("loss", "accuracy", "balanced_accuracy", "auroc"), float("nan"))
    predicted = logits.argmax(1)
    recalls = [(predicted[labels == c] == c).mean() for c in np.unique(labels)]
    probabilities = torch.softmax(torch.from_numpy(logits), 1).numpy()
    aurocs = [
        roc_auc_score(labels == c, probabilities[:, c])
        for c in range(logits.shape[1])
        if 0 < (labels == c).sum() < len(labels)
    ]
    return {
        "loss": float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))),
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": float(np.mean(recalls)),
        "auroc": float(np.mean(aurocs)) if aurocs else float("nan"),
    }
