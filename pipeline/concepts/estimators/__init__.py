"""Estimators of concept activation vectors by name; each in a file of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.config.reveal import CavKind

from . import lasso, lda, logistic, mean, median, pattern, ridge, svm
from .linear import Linear, Standardized


@dataclass(frozen=True)
class Estimator:
    """How one kind of concept activation vector is fitted.

    Attributes:
        role: a "pattern" points where the concept moves features, and is fitted on them as they are; a "filter" points
            where it is best told apart, and is fitted on standardized features.
        fit: takes features `[N, D]`, boolean labels `[N]`, and for a filter that is regularized its strength, which has
            a default.
        choose: takes features, labels and a seed, and returns the strength that does best on held-out folds; None where
            there is nothing to choose.
    """

    role: Literal["pattern", "filter"]
    fit: Callable[..., Linear]
    choose: Callable[[np.ndarray, np.ndarray, int], float] | None = None


ESTIMATORS: dict[CavKind, Estimator] = {
    "pattern": Estimator("pattern", pattern.fit),
    "mean": Estimator("pattern", mean.fit),
    "median": Estimator("pattern", median.fit),
    "ridge": Estimator("filter", ridge.fit, ridge.choose),
    "logistic": Estimator("filter", logistic.fit, logistic.choose),
    "svm": Estimator("filter", svm.fit, svm.choose),
    "lasso": Estimator("filter", lasso.fit, lasso.choose),
    "lda": Estimator("filter", lda.fit),
}


def estimate(features: np.ndarray, labels: np.ndarray, kind: CavKind, *, search: bool = False, seed: int = 0) -> Linear:
    """Return what an estimator finds, in the coordinates of the features.

    Args:
        features: `[N, D]`, float64; not changed.
        labels: `[N]`, booleans, both of which occur.
        kind: of estimator.
        search: choose the strength of the regularization by five-fold cross-validation, instead of the default.
        seed: of the folds.

    Raises:
        ValueError: there is no such estimator.
    """
    if kind not in ESTIMATORS:
        raise ValueError(f"unknown kind of CAV '{kind}'; allowed: {', '.join(ESTIMATORS)}")
    estimator = ESTIMATORS[kind]
    if estimator.role == "pattern":
        return estimator.fit(features, labels)
    scaled = Standardized.of(features)
    if not search or estimator.choose is None:
        return scaled.filter_back(estimator.fit(scaled.features, labels))
    strength = estimator.choose(scaled.features, labels, seed)
    return scaled.filter_back(estimator.fit(scaled.features, labels, strength))
