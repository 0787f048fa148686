"""How well a model classifies: metrics of one model in one world, of its classes, groups and subgroups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, softmax

from pipeline.statistics import (
    Interval,
    accuracy,
    auroc,
    average_precision,
    balanced_accuracy,
    brier_score,
    calibration_error,
    class_f1,
    class_precision,
    exact_match,
    macro_auroc,
    macro_average_precision,
    macro_f1,
    multilabel_macro_f1,
    per_class_accuracy,
    sensitivity_specificity,
    worst_group,
)
from pipeline.workspace.records import Metric

from .rows import exactly, record


@dataclass(frozen=True)
class Resampling:
    """How intervals are made.

    Attributes:
        confidence: in (0, 1).
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    confidence: float
    resamples: int
    seed: int

    @property
    def options(self) -> dict[str, float]:
        """The same as keyword arguments of the statistics."""
        return {"confidence": self.confidence, "resamples": self.resamples, "seed": self.seed}


@dataclass(frozen=True)
class OperatingPoint:
    """From which probability a sample counts as positive.

    Attributes:
        class_id: the positive class.
        threshold: chosen on the validation split, for one model.
    """

    class_id: int
    threshold: float


def performance(
    model: str,
    world: str,
    logits: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    groups: np.ndarray,
    columns: Mapping[str, np.ndarray],
    point: OperatingPoint | None,
    resampling: Resampling,
) -> list[Metric]:
    """Return the metrics of the whole set, of every class, of every group, and of every value of the columns.

    Args:
        logits: `[N, K]`.
        labels: class ids `[N]`.
        groups: name of each sample's group (class, with or without the artifact) `[N]`.
        columns: group column -> value of each sample as text `[N]`; "" = missing, which is no subgroup.
        point: adds sensitivity and specificity; None where no class is the positive one.
    """
    predicted, probabilities = logits.argmax(1), softmax(logits.astype(np.float64), axis=1)
    figures = whole_set(logits, probabilities, labels, point, resampling)
    figures["worst_group_accuracy"] = worst_group(labels, predicted, groups, confidence=resampling.confidence)[1]
    figures["calibration_error"] = calibration_error(probabilities, labels, **resampling.options)
    figures["brier_score"] = brier_score(probabilities, labels, **resampling.options)
    if point is not None:
        figures["operating_threshold"] = exactly(point.threshold, len(labels))
    rows = [record(model, world, "all", name, interval) for name, interval in figures.items()]
    for class_id, recall in per_class_accuracy(labels, predicted, resampling.confidence).items():
        of_class = {"class_accuracy": recall} | _class_figures(probabilities, labels, class_id, resampling)
        rows += [record(model, world, f"class={classes[class_id]}", *each) for each in of_class.items()]
    for group in sorted(set(groups)):
        inside = groups == group
        found = accuracy(labels[inside], predicted[inside], resampling.confidence)
        rows.append(record(model, world, f"group={group}", "accuracy", found))
    for column, values in columns.items():
        for value in sorted(set(values) - {""}):
            inside = values == value
            figures = whole_set(logits[inside], probabilities[inside], labels[inside], point, resampling)
            rows += [record(model, world, f"{column}={value}", *each) for each in figures.items()]
    return rows


def whole_set(
    logits: np.ndarray,
    probabilities: np.ndarray,
    labels: np.ndarray,
    point: OperatingPoint | None,
    resampling: Resampling,
) -> dict[str, Interval]:
    """Return accuracy, F1, discrimination and, at an operating point, sensitivity and specificity of a set of samples.

    With two classes AUROC and average precision are those of the second one, else means over the classes.
    """
    predicted, confidence, options = logits.argmax(1), resampling.confidence, resampling.options
    figures = {
        "accuracy": accuracy(labels, predicted, confidence),
        "balanced_accuracy": balanced_accuracy(labels, predicted, **options),
        "macro_f1": macro_f1(labels, predicted, **options),
    }
    if logits.shape[1] == 2:
        # of logits, because probabilities of confident models are equal in floating point
        margin = logits[:, 1].astype(np.float64) - logits[:, 0]
        figures["auroc"] = auroc(margin, labels == 1, confidence)
        figures["average_precision"] = average_precision(margin, labels == 1, **options)
    else:
        figures["macro_auroc"] = macro_auroc(probabilities, labels, confidence)
        figures["macro_average_precision"] = macro_average_precision(probabilities, labels, **options)
    if point is not None:
        scores, positive = probabilities[:, point.class_id], labels == point.class_id
        both = sensitivity_specificity(scores, positive, point.threshold, confidence)
        figures["sensitivity"], figures["specificity"] = both
    return figures


def _class_figures(
    probabilities: np.ndarray, labels: np.ndarray, class_id: int, resampling: Resampling
) -> dict[str, Interval]:
    predicted = probabilities.argmax(1)
    figures = {
        "precision": class_precision(labels, predicted, class_id, resampling.confidence),
        "f1": class_f1(labels, predicted, class_id, **resampling.options),
    }
    if probabilities.shape[1] > 2:
        scores, positive = probabilities[:, class_id], labels == class_id
        figures["auroc"] = auroc(scores, positive, resampling.confidence)
        figures["average_precision"] = average_precision(scores, positive, **resampling.options)
    return figures


def performance_of_labels(
    model: str, world: str, logits: np.ndarray, flags: np.ndarray, classes: tuple[str, ...], resampling: Resampling
) -> list[Metric]:
    """Return the metrics of a model that gives several labels to a sample: a label is given from probability 1/2 on.

    Args:
        logits: `[N, K]`, one sigmoid per label.
        flags: which labels are true `[N, K]`.
        classes: names of the labels.
    """
    probabilities, truth = expit(logits.astype(np.float64)), flags.astype(bool)
    given, options = probabilities > 0.5, resampling.options
    figures = {
        "exact_match": exact_match(truth, given, resampling.confidence),
        "macro_f1": multilabel_macro_f1(truth, given, **options),
        "macro_auroc": macro_auroc(probabilities, truth, resampling.confidence),
        "macro_average_precision": macro_average_precision(probabilities, truth, **options),
    }
    rows = [record(model, world, "all", name, interval) for name, interval in figures.items()]
    for place, name in enumerate(classes):
        scores, positive, found = probabilities[:, place], truth[:, place], given[:, place]
        sensitivity, specificity = sensitivity_specificity(scores, positive, 0.5, resampling.confidence)
        of_label = {
            "precision": class_precision(positive, found, 1, resampling.confidence),
            "f1": class_f1(positive, found, 1, **options),
            "sensitivity": sensitivity,
            "specificity": specificity,
            "auroc": auroc(scores, positive, resampling.confidence),
            "average_precision": average_precision(scores, positive, **options),
        }
        rows += [record(model, world, f"class={name}", *each) for each in of_label.items()]
    return rows
