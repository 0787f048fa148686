"""How well a model classifies: metrics of one model in one world."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

from pipeline.statistics import (
    Interval,
    accuracy,
    auroc,
    balanced_accuracy,
    brier_score,
    calibration_error,
    per_class_accuracy,
    wilson,
    worst_group,
)
from pipeline.workspace.records import Metric


def record(model: str, world: str, subgroup: str, metric: str, interval: Interval) -> Metric:
    """Return a metric's row."""
    return Metric(
        model=model,
        world=world,
        subgroup=subgroup,
        metric=metric,
        value=interval.value,
        lower=interval.lower,
        upper=interval.upper,
        n=interval.n,
    )


def performance(
    model: str,
    world: str,
    logits: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    groups: list[str],
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> list[Metric]:
    """Return accuracy, balanced accuracy, calibration, per-class accuracy, worst group and, for two classes, AUROC.

    Args:
        logits: `[N, K]`.
        labels: class ids `[N]`.
        groups: name of each sample's group (class x artifact) `[N]`.
    """
    predicted, probabilities = logits.argmax(1), softmax(logits.astype(np.float64), axis=1)
    resampling = {"resamples": resamples, "confidence": confidence, "seed": seed}
    _, worst = worst_group(labels, predicted, groups, confidence=confidence)
    rows = [
        record(model, world, "all", "accuracy", accuracy(labels, predicted, confidence)),
        record(
            model,
            world,
            "all",
            "balanced_accuracy",
            balanced_accuracy(labels, predicted, **resampling),
        ),
        record(model, world, "all", "worst_group_accuracy", worst),
        record(model, world, "all", "calibration_error", calibration_error(probabilities, labels, **resampling)),
        record(model, world, "all", "brier_score", brier_score(probabilities, labels, **resampling)),
    ]
    for class_id, interval in per_class_accuracy(labels, predicted, confidence).items():
        rows.append(record(model, world, f"class={classes[class_id]}", "class_accuracy", interval))
    if len(classes) == 2:
        rows.append(record(model, world, "all", "auroc", auroc(logits[:, 1] - logits[:, 0], labels == 1, confidence)))
    return rows


def subgroup_accuracy(
    model: str,
    world: str,
    predicted: np.ndarray,
    labels: np.ndarray,
    column: str,
    values: np.ndarray,
    confidence: float,
) -> list[Metric]:
    """Return accuracy for every value of a group column."""
    return [
        record(
            model,
            world,
            f"{column}={value}",
            "accuracy",
            accuracy(labels[values == value], predicted[values == value], confidence),
        )
        for value in sorted(set(values))
    ]


def flip_rate(model: str, clean: np.ndarray, attacked: np.ndarray, confidence: float) -> Metric:
    """Return the share of samples whose predicted class changes when the artifact is inserted.

    Args:
        clean: logits `[N, K]` without the artifact.
        attacked: logits of the same samples with it.
    """
    flips = int((clean.argmax(1) != attacked.argmax(1)).sum())
    return record(model, "attacked", "all", "flip_rate", wilson(flips, len(clean), confidence))
