from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score
from torch import nn

from pipeline.models.classification import class_weights, validation_metrics


def test_class_weights_are_inverse_to_frequency_with_mean_one_over_samples():
    labels = np.array([0] * 6 + [1] * 2 + [3] * 4)
    weights = class_weights(labels, 4).numpy()
    assert weights == pytest.approx([12 / 18, 2, 0, 1])
    assert weights[labels].mean() == pytest.approx(1)


class Scripted(nn.Module):
    """Gives each image the logits of a table, found by its first pixel."""

    def __init__(self, logits: np.ndarray):
        super().__init__()
        self.logits = torch.from_numpy(logits)

    def forward(self, x):
        return self.logits[(x[:, 0, 0, 0] * 255).round().long()]


@pytest.fixture
def numbered(striped):
    """48 images whose first pixel is their position; classes 0, 1, 2 in the ratio 3 : 2 : 1."""
    dataset = striped(48)
    dataset.pixels[:, 0, 0, 0] = np.arange(48)
    dataset.table["label"] = np.array([0, 0, 0, 1, 1, 2] * 8)
    return dataset


def test_validation_metrics_agree_with_scikit_learn(numbered):
    logits = np.random.default_rng(0).normal(size=(48, 3)).astype(np.float32)
    rows = np.arange(47, 7, -1)
    found = validation_metrics(Scripted(logits), numbered, rows, "cpu")
    labels = numbered.table["label"].to_numpy()[rows]
    probabilities = torch.softmax(torch.from_numpy(logits[rows]).double(), 1).numpy()
    assert found["loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-5)
    assert found["accuracy"] == pytest.approx((logits[rows].argmax(1) == labels).mean())
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, logits[rows].argmax(1)))
    assert found["auroc"] == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr"))


def test_one_class_alone_has_no_auroc(numbered):
    rows = np.flatnonzero(numbered.table["label"].to_numpy() == 1)
    found = validation_metrics(Scripted(np.eye(48, 3, dtype=np.float32)), numbered, rows, "cpu")
    assert np.isnan(found["auroc"]) and np.isfinite(found["loss"])


def test_logits_that_are_not_finite_give_no_figures(numbered):
    found = validation_metrics(Scripted(np.full((48, 3), np.nan, np.float32)), numbered, np.arange(10), "cpu")
    assert all(np.isnan(value) for value in found.values())
