"""Corrected models against the original, on the same samples."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from pipeline.statistics import accuracy_gain, auroc_gain, delong_paired, holm, mcnemar
from pipeline.workspace.records import Metric

from .rows import exactly, record

ADJUSTED = {"mcnemar_p": "mcnemar_p_adjusted", "delong_p": "delong_p_adjusted"}


def paired_metrics(
    model: str, world: str, before: np.ndarray, after: np.ndarray, labels: np.ndarray, confidence: float
) -> list[Metric]:
    """Return how much better a corrected model is than the original, and whether more than chance explains it.

    Args:
        model: name of the corrected one.
        before: logits of the original `[N, K]`.
        after: logits of the corrected model on the same samples.
        labels: class ids `[N]`.
        confidence: of the intervals. With two classes AUROCs are compared as well.
    """
    right = before.argmax(1) == labels, after.argmax(1) == labels
    figures = {
        "accuracy_gain": accuracy_gain(*right, confidence),
        "mcnemar_p": exactly(mcnemar(*right), len(labels)),
    }
    if before.shape[1] == 2:
        scores = [each[:, 1].astype(np.float64) - each[:, 0] for each in (before, after)]
        figures["auroc_gain"] = auroc_gain(*scores, labels == 1, confidence)
        figures["delong_p"] = exactly(delong_paired(*scores, labels == 1), len(labels))
    return [record(model, world, "all", name, interval) for name, interval in figures.items()]


def adjusted(metrics: list[Metric], models: list[str]) -> list[Metric]:
    """Return the p values of the models adjusted for how many are compared in the same world, by Holm's method.

    Args:
        metrics: all rows.
        models: methods that are compared with the original, without single seeds.
    """
    families: dict[tuple[str, str, str], list[Metric]] = defaultdict(list)
    for row in metrics:
        if row.metric in ADJUSTED and row.model in models:
            families[row.metric, row.world, row.subgroup].append(row)
    found = []
    for (metric, world, subgroup), rows in families.items():
        values = holm(np.array([row.value for row in rows]))
        found += [
            record(row.model, world, subgroup, ADJUSTED[metric], exactly(value, row.n))
            for row, value in zip(rows, values, strict=True)
        ]
    return found
