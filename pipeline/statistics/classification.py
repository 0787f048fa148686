"""Scores of predicted class ids: accuracy overall, balanced, by class and of the worst group; precision and F1."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from typing import NamedTuple

import numpy as np

from .checks import equal_lengths
from .intervals import Interval, percentile_interval, unmeasured, wilson


class ClassScores(NamedTuple):
    """Scores `[K]` of the classes that occur among the true ones, in [0, 1].

    Attributes:
        classes: ids, ascending.
        precision: share of the predictions of the class that are correct; 0 where it is never predicted.
        recall: share of the samples of the class that are found.
        f1: harmonic mean of both.
    """

    classes: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


def accuracy(y: np.ndarray, predicted: np.ndarray, confidence: float = 0.95) -> Interval:
    """Return the share of correct predictions with Wilson's interval; no samples give nan.

    Args:
        y: class ids `[N]`.
        predicted: class ids `[N]`.
        confidence: in (0, 1).
    """
    correct = _correct(y, predicted)
    return wilson(correct.sum(), len(correct), confidence)


def per_class_accuracy(y: np.ndarray, predicted: np.ndarray, confidence: float = 0.95) -> dict[int, Interval]:
    """Return the share of correct predictions (recall) of every class that occurs in `y`, with Wilson's interval."""
    classes, right, counts = _recall_counts(y, predicted)
    return {int(c): wilson(k, n, confidence) for c, k, n in zip(classes, right, counts, strict=True)}


def balanced_accuracy(
    y: np.ndarray, predicted: np.ndarray, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the mean recall over the classes in `y`, with a bootstrap interval that keeps every class's size.

    Drawing n correct-or-wrong outcomes with replacement from a class, of which a share p is correct, makes the number
    of correct ones Binomial(n, p): the resamples are drawn as such, for all classes at once.

    Args:
        y: class ids `[N]`; no samples give nan.
        predicted: class ids `[N]`.
        resamples: number of resamples.
        confidence: in (0, 1).
        seed: the same seed and input give the same interval.
    """
    _, right, counts = _recall_counts(y, predicted)
    if len(counts) == 0:
        return unmeasured(0)
    recall = right / counts
    drawn = np.random.default_rng(seed).binomial(counts, recall, size=(resamples, len(counts)))
    return percentile_interval(recall.mean(), (drawn / counts).mean(axis=1), int(counts.sum()), confidence)


def class_scores(y: np.ndarray, predicted: np.ndarray) -> ClassScores:
    """Return precision, recall and F1 of every class that occurs in `y`.

    Args:
        y: class ids `[N]`.
        predicted: class ids `[N]`; those that do not occur in `y` are only wrong.
    """
    classes, confusion = _confusion(y, predicted)
    hits, counts, predictions = np.diagonal(confusion), confusion.sum(1), confusion[:, : len(classes)].sum(0)
    return ClassScores(classes, hits / np.maximum(predictions, 1), hits / counts, 2 * hits / (counts + predictions))


def macro_f1(
    y: np.ndarray, predicted: np.ndarray, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the mean F1 over the classes in `y`, with a bootstrap interval that keeps every class's size.

    Drawing with replacement from the samples of a class makes the counts of what they are taken for multinomial.

    Args:
        y: class ids `[N]`; no samples give nan.
        predicted: class ids `[N]`.
        resamples: number of resamples.
        confidence: in (0, 1).
        seed: the same seed and input give the same interval.
    """
    classes, confusion = _confusion(y, predicted)
    if len(classes) == 0:
        return unmeasured(0)
    rng, counts = np.random.default_rng(seed), confusion.sum(1)
    hits, predictions = np.zeros((2, resamples, len(classes)))
    for place, (row, count) in enumerate(zip(confusion, counts, strict=True)):
        drawn = rng.multinomial(count, row / count, size=resamples)
        hits[:, place] = drawn[:, place]
        predictions += drawn[:, :-1]
    f1 = 2 * hits / (counts + predictions)
    return percentile_interval(class_scores(y, predicted).f1.mean(), f1.mean(1), int(counts.sum()), confidence)


def worst_group(
    y: np.ndarray, predicted: np.ndarray, groups: Iterable[Hashable], *, min_n: int = 10, confidence: float = 0.95
) -> tuple[Hashable | None, Interval]:
    """Return the group with the smallest accuracy, and that accuracy with Wilson's interval.

    The interval is the group's own; that the group was chosen for being the worst is not corrected for.

    Args:
        y: class ids `[N]`.
        predicted: class ids `[N]`.
        groups: one hashable key per sample, for example (class, carries the artifact). Samples whose key is None or
            nan belong to no group.
        min_n: smaller groups are passed over. When none is left: (None, nan). Ties go to the larger group.
        confidence: in (0, 1).
    """
    correct = _correct(y, predicted)
    keys = groups.tolist() if isinstance(groups, np.ndarray) else list(groups)
    equal_lengths(y=correct, groups=keys)
    members: dict[Hashable, list[bool]] = {}
    for key, right in zip(keys, correct, strict=True):
        if key is not None and not (isinstance(key, float) and math.isnan(key)):
            members.setdefault(key, []).append(bool(right))
    candidates = {key: wilson(sum(each), len(each), confidence) for key, each in members.items() if len(each) >= min_n}
    if not candidates:
        return None, unmeasured(0)
    return min(candidates.items(), key=lambda item: (item[1].value, -item[1].n))


def _correct(y: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return booleans `[N]`; raise DataError when the lengths differ."""
    y, predicted = np.asarray(y), np.asarray(predicted)
    equal_lengths(y=y, predicted=predicted)
    return y == predicted


def _confusion(y: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes `[K]` of `y`, and how often each (row) is taken for each, or for none of them `[K, K + 1]`."""
    y, predicted = np.asarray(y), np.asarray(predicted)
    equal_lengths(y=y, predicted=predicted)
    classes, rows = np.unique(y, return_inverse=True)
    columns = np.searchsorted(classes, predicted)
    known = np.isin(predicted, classes)
    confusion = np.zeros((len(classes), len(classes) + 1), dtype=int)
    np.add.at(confusion, (rows, np.where(known, columns, len(classes))), 1)
    return classes, confusion


def _recall_counts(y: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the classes of `y`, and for each how many samples are correct and how many there are."""
    correct = _correct(y, predicted)
    classes, inverse, counts = np.unique(np.asarray(y), return_inverse=True, return_counts=True)
    return classes, np.bincount(inverse, weights=correct, minlength=len(classes)).astype(int), counts
