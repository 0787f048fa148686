"""Concept activation vectors: a direction in a layer that tells samples with a concept from samples without it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.config.reveal import CavKind
from pipeline.statistics import Interval, auroc
from pipeline.workspace.records import CavSummary

from .estimators import estimate
from .estimators.search import stratified_folds
from .stored import Stored

NEAR_BEST = 0.02


class NoDirection(ValueError):
    """The features do not differ between samples with and without the concept, as far as an estimator can see."""


@dataclass(frozen=True)
class Cav(Stored):
    """A unit direction with an intercept; scores above 0 mean that the concept is present.

    Attributes:
        direction: `[D]`, length 1, in the coordinates of the layer's channels (pooling "full": of its flattened maps).
        intercept: offset such that `features @ direction + intercept` is 0 at the boundary: that of the estimator where
            it finds one (filters), else (pattern, mean, median) half-way between the means of the two groups.
        kind: estimator.
        layer: name of the layer.
        pooling: how positions were pooled into features: "max", "mean", or "full" for none, D = channels * positions.
        mean_with: mean of `features @ direction` over samples with the concept.
        mean_without: the same over samples without it.
        baseline: `[D]`, mean features of samples without the concept.
        position_without: mean of `activation @ direction` over all positions of samples without the concept; with
            pooling "full" the same as `mean_without`.
    """

    direction: np.ndarray
    intercept: float
    kind: str
    baseline: np.ndarray
    layer: str = ""
    pooling: str = "max"
    mean_with: float = 0.0
    mean_without: float = 0.0
    position_without: float = 0.0

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return signed distances `[N]` of features `[N, D]` from the boundary."""
        return features @ self.direction + self.intercept


def fit_cav(
    features: np.ndarray,
    labels: np.ndarray,
    kind: CavKind = "pattern",
    *,
    layer: str = "",
    pooling: str = "max",
    search: bool = False,
    seed: int = 0,
) -> Cav:
    """Fit a concept activation vector.

    Args:
        features: `[N, D]`, pooled or flattened activations; not changed.
        labels: `[N]`, true where the concept is present; both values must occur.
        kind: patterns say where the concept moves features: "pattern" is Cov(x, t) / Var(t), for binary t the same as
            "mean", the difference of means (Pahde et al. 2022), "median" that of medians. Filters say where it is best
            told apart: "ridge", "logistic", "svm", "lasso" and "lda" are fitted on standardized features with balanced
            groups and mapped back, with their intercepts.
        layer: where the features come from.
        pooling: how positions were pooled.
        search: choose how strongly a filter is regularized by five-fold cross-validation; otherwise a strong default,
            which suits few positives and costs one fit.
        seed: of the folds of that search.

    Raises:
        NoDirection: the estimator sees no difference between the groups; a ValueError.
        ValueError: only one label occurs, features are not finite, or the kind is unknown.
    """
    features = np.asarray(features, dtype=np.float64)
    labels = np.asarray(labels, dtype=bool)
    if labels.all() or not labels.any():
        raise ValueError(f"a CAV needs samples with and without the concept; all {len(labels)} labels are {labels[0]}")
    if not np.isfinite(features).all():
        raise ValueError("features of a CAV must be finite")
    found = estimate(features, labels, kind, search=search, seed=seed)
    length = np.linalg.norm(found.weights)
    if length == 0:
        raise NoDirection(f"features do not differ between samples with and without the concept, to the kind '{kind}'")
    direction = found.weights / length
    projected = features @ direction
    with_concept, without = float(projected[labels].mean()), float(projected[~labels].mean())
    return Cav(
        direction=direction,
        intercept=-(with_concept + without) / 2 if found.intercept is None else found.intercept / float(length),
        kind=kind,
        baseline=features[~labels].mean(0),
        layer=layer,
        pooling=pooling,
        mean_with=with_concept,
        mean_without=without,
    )


def held_out_auroc(
    features: np.ndarray, labels: np.ndarray, kind: CavKind, *, seed: int = 0, search: bool = False
) -> Interval:
    """Return the AUROC (DeLong interval) of scores that each fold's samples get from a CAV fitted without them.

    Args:
        features: `[N, D]`.
        labels: `[N]`; each value must occur at least twice.
        kind: of CAV.
        seed: of the folds.
        search: as in `fit_cav`, anew within each fold.
    """
    return auroc(out_of_fold_scores(features, labels, kind, seed=seed, search=search), labels)


def out_of_fold_scores(
    features: np.ndarray, labels: np.ndarray, kind: CavKind, *, seed: int = 0, search: bool = False
) -> np.ndarray:
    """Return for every sample `[N]` the score of a CAV fitted on the other folds, in units of that CAV's class gap.

    Where the other folds show no difference there is no CAV, and the score is 0. Arguments as in `held_out_auroc`.
    """
    labels = np.asarray(labels, dtype=bool)
    folds = stratified_folds(labels, seed)
    if not folds:
        raise ValueError("held-out evidence needs at least two samples with and two without the concept")
    scores = np.zeros(len(labels))
    for fitted, held_out in folds:
        if is_constant(features[fitted]):
            continue
        try:
            cav = fit_cav(features[fitted], labels[fitted], kind, search=search, seed=seed)
        except NoDirection:
            continue
        gap = max(abs(cav.mean_with - cav.mean_without), 1e-12)
        scores[held_out] = cav.scores(features[held_out].astype(np.float64)) / gap
    return scores


def is_constant(features: np.ndarray) -> bool:
    """Return whether all rows of `[N, D]` are equal, as in a layer that does not respond: no CAV can be fitted."""
    return bool((features == features[:1]).all())


def acting_layer(candidates: list[CavSummary]) -> tuple[str, str]:
    """Return (layer, kind) of the CAV that tells best how a concept acts on the decision.

    The pattern CAV, since a pattern points to where the concept moves activations and a filter to where it is best
    recognised; in the deepest layer whose held-out AUROC is within 0.02 of the best.

    Args:
        candidates: evidence of all fitted CAVs, from input to output.
    """
    kinds = [each.kind for each in candidates]
    kind = "pattern" if "pattern" in kinds else kinds[0]
    evidence = [each for each in candidates if each.kind == kind]
    best = max(each.auroc for each in evidence)
    return [each.layer for each in evidence if each.auroc >= best - NEAR_BEST][-1], kind
