"""Scores of predicted class ids: accuracy overall, balanced, by class and of the worst group; precision and F1."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from typing import NamedTuple

import numpy as np

from .checks import equal_lengths
from .intervals import Interval, enclosing, percentile_interval, unmeasured, wilson


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
    """Return the mean recall over the classes in `y`, with an interval that keeps every class's size.

    Each class's recall is drawn from what Jeffreys' prior makes of its n counts, Beta(right + 1/2, wrong + 1/2). The
    draws are stretched, since the prior narrows them by n / (n + 2), and moved so that their mean is the value. Drawing
    from the counts alone, as the bootstrap does, takes a class without errors for one that cannot err.

    Args:
        y: class ids `[N]`; no samples give nan.
        predicted: class ids `[N]`.
        resamples: number of draws.
        confidence: in (0, 1).
        seed: the same seed and input give the same interval.

    Source: Brown, Cai & DasGupta, "Interval estimation for a binomial proportion", Statistical Science 2001.
    """
    _, right, counts = _recall_counts(y, predicted)
    if len(counts) == 0:
        return unmeasured(0)
    drawn = np.random.default_rng(seed).beta(right + 0.5, counts - right + 0.5, size=(resamples, len(counts)))
    stretched = (drawn - drawn.mean(axis=0)) * np.sqrt((counts + 2) / counts)
    return _centred(float((right / counts).mean()), stretched.mean(axis=1), int(counts.sum()), confidence)


def class_precision(y: np.ndarray, predicted: np.ndarray, class_id: int, confidence: float = 0.95) -> Interval:
    """Return the share of the predictions of a class that are correct, with Wilson's interval.

    Args:
        y: class ids `[N]`.
        predicted: class ids `[N]`.
        class_id: the class; never predicted gives nan. The interval's n counts its predictions.
        confidence: in (0, 1).
    """
    correct, chosen = _correct(y, predicted), np.asarray(predicted) == class_id
    return wilson(correct[chosen].sum(), chosen.sum(), confidence)


def class_f1(
    y: np.ndarray,
    predicted: np.ndarray,
    class_id: int,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the harmonic mean of precision and recall of a class, with an interval made as that of `macro_f1`.

    Args:
        y: class ids `[N]`.
        predicted: class ids `[N]`; which of the other classes it is does not matter.
        class_id: the class; one that does not occur in `y` gives nan.
        resamples, confidence, seed: as in `macro_f1`.
    """
    positive, chosen = np.asarray(y) == class_id, np.asarray(predicted) == class_id
    classes, confusion = _confusion(positive, chosen)
    if not positive.any():
        return unmeasured(len(positive))
    drawn = _drawn_f1(confusion, resamples, seed)[:, -1]
    return _centred(float(class_scores(positive, chosen).f1[-1]), drawn, len(positive), confidence)


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
    """Return the mean F1 over the classes in `y`, with an interval that keeps every class's size.

    What the samples of a class are taken for is drawn from what Perks' prior, one sample spread evenly over all
    answers, makes of the counts. The draws are moved so that their mean is the F1: the prior adds errors that were not
    made. Drawing from the counts alone, as the bootstrap does, takes errors that did not occur for impossible ones.

    Args:
        y: class ids `[N]`; no samples give nan.
        predicted: class ids `[N]`.
        resamples: number of draws.
        confidence: in (0, 1).
        seed: the same seed and input give the same interval.

    Source: Perks, Journal of the Institute of Actuaries 1947, for the prior.
    """
    classes, confusion = _confusion(y, predicted)
    if len(classes) == 0:
        return unmeasured(0)
    drawn = _drawn_f1(confusion, resamples, seed).mean(1)
    return _centred(float(class_scores(y, predicted).f1.mean()), drawn, len(np.asarray(y)), confidence)


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


def _drawn_f1(confusion: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return the F1 `[R, K]` of the classes for draws of what each is taken for; see `macro_f1`.

    Args:
        confusion: `[K, K + 1]`, see `_confusion`.
    """
    counts, answers = confusion.sum(1), confusion.shape[1]
    drawn = np.random.default_rng(seed).standard_gamma(confusion + 1 / answers, size=(resamples, *confusion.shape))
    drawn *= (counts / drawn.sum(2))[..., None]
    return 2 * np.diagonal(drawn, axis1=1, axis2=2) / (counts + drawn[..., :-1].sum(1))


def _centred(value: float, drawn: np.ndarray, n: int, confidence: float) -> Interval:
    """Return the value with percentiles of draws that are moved to have it for their mean, within [0, 1]."""
    found = percentile_interval(value, drawn - drawn.mean() + value, n, confidence)
    return enclosing(value, max(0.0, found.lower), min(1.0, found.upper), n)


def _recall_counts(y: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the classes of `y`, and for each how many samples are correct and how many there are."""
    correct = _correct(y, predicted)
    classes, inverse, counts = np.unique(np.asarray(y), return_inverse=True, return_counts=True)
    return classes, np.bincount(inverse, weights=correct, minlength=len(classes)).astype(int), counts
