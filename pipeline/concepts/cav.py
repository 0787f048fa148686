"""Concept activation vectors: a direction in a layer that tells samples with a concept from samples without it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np

from pipeline.errors import StoreError
from pipeline.statistics import Interval, auroc
from pipeline.workspace.atomic import atomic_path
from pipeline.workspace.records import CavSummary

CavKind = Literal["pattern", "svm", "ridge", "logistic"]
FOLDS = 5
NEAR_BEST = 0.02
CONSTANT = 1e-9


@dataclass(frozen=True)
class Cav:
    """A unit direction with an intercept; scores above 0 mean that the concept is present.

    Attributes:
        direction: `[D]`, length 1, in the coordinates of the layer's channels.
        intercept: offset such that `features @ direction + intercept` is 0 between the two groups.
        kind: estimator.
        layer: name of the layer.
        pooling: how positions were pooled into features, "max" or "mean".
        mean_with: mean of `features @ direction` over samples with the concept.
        mean_without: the same over samples without it.
        baseline: `[D]`, mean features of samples without the concept.
        position_without: mean of `activation @ direction` over all positions of samples without the concept.
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

    def save(self, path: Path) -> None:
        """Write an NPZ file without pickled objects."""
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **{name: np.asarray(value) for name, value in vars(self).items()})

    @classmethod
    def load(cls, path: Path) -> Cav:
        """Read what `save` wrote.

        Raises:
            StoreError: the file is missing, damaged or of another version.
        """
        figures = ("intercept", "mean_with", "mean_without", "position_without")
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(
                    direction=stored["direction"],
                    baseline=stored["baseline"],
                    **{name: float(stored[name]) for name in figures},
                    **{name: str(stored[name]) for name in ("kind", "layer", "pooling")},
                )
        except (OSError, KeyError, ValueError, EOFError, BadZipFile, zlib.error) as error:
            raise StoreError(f"{path} cannot be read ({error}). Start reveal again, with --force.") from None


def fit_cav(
    features: np.ndarray, labels: np.ndarray, kind: CavKind = "pattern", *, layer: str = "", pooling: str = "max"
) -> Cav:
    """Fit a concept activation vector.

    Args:
        features: `[N, D]`, pooled activations.
        labels: `[N]`, true where the concept is present; both values must occur.
        kind: "pattern" is Cov(x, t) / Var(t), for binary t the difference of means (Pahde et al. 2022); "svm", "ridge"
            and "logistic" are filters, fitted on standardised features with balanced classes and mapped back.

    Raises:
        ValueError: only one label occurs, features are not finite, or all features are constant.
    """
    features = np.asarray(features, dtype=np.float64)
    labels = np.asarray(labels, dtype=bool)
    if labels.all() or not labels.any():
        raise ValueError(f"a CAV needs samples with and without the concept; all {len(labels)} labels are {labels[0]}")
    if not np.isfinite(features).all():
        raise ValueError("features of a CAV must be finite")
    weights = _pattern(features, labels) if kind == "pattern" else _filter(features, labels, kind)
    length = np.linalg.norm(weights)
    if length == 0:
        raise ValueError("features do not differ between samples with and without the concept")
    direction = weights / length
    projected = features @ direction
    with_concept, without = float(projected[labels].mean()), float(projected[~labels].mean())
    return Cav(
        direction=direction,
        intercept=-(with_concept + without) / 2,
        kind=kind,
        baseline=features[~labels].mean(0),
        layer=layer,
        pooling=pooling,
        mean_with=with_concept,
        mean_without=without,
    )


def held_out_auroc(features: np.ndarray, labels: np.ndarray, kind: CavKind, *, seed: int = 0) -> Interval:
    """Return the AUROC (DeLong interval) of scores that each fold's samples get from a CAV fitted without them.

    Args:
        features: `[N, D]`.
        labels: `[N]`; each value must occur at least twice.
    """
    return auroc(out_of_fold_scores(features, labels, kind, seed=seed), labels)


def out_of_fold_scores(features: np.ndarray, labels: np.ndarray, kind: CavKind, *, seed: int = 0) -> np.ndarray:
    """Return for every sample `[N]` the score of a CAV fitted on the other folds, in units of that CAV's class gap.

    Where the features of the other folds are constant there is no CAV, and the score is 0.
    """
    from sklearn.model_selection import StratifiedKFold

    labels = np.asarray(labels, dtype=bool)
    folds = int(min(FOLDS, labels.sum(), (~labels).sum()))
    if folds < 2:
        raise ValueError("held-out evidence needs at least two samples with and two without the concept")
    scores = np.empty(len(labels))
    for fitted, held_out in StratifiedKFold(folds, shuffle=True, random_state=seed).split(features, labels):
        if is_constant(features[fitted]):
            scores[held_out] = 0.0
            continue
        cav = fit_cav(features[fitted], labels[fitted], kind)
        gap = max(cav.mean_with - cav.mean_without, 1e-12)
        scores[held_out] = cav.scores(features[held_out].astype(np.float64)) / gap
    return scores


def is_constant(features: np.ndarray) -> bool:
    """Return whether all rows of `[N, D]` are equal, as in a layer that does not respond: no CAV can be fitted."""
    return bool((features == features[:1]).all())


def _pattern(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return features[labels].mean(0) - features[~labels].mean(0)


def _filter(features: np.ndarray, labels: np.ndarray, kind: str) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression, RidgeClassifier
    from sklearn.svm import LinearSVC

    estimators = {
        "svm": lambda: LinearSVC(C=0.01, class_weight="balanced", dual="auto", random_state=0, max_iter=5000),
        "ridge": lambda: RidgeClassifier(alpha=1.0, class_weight="balanced"),
        "logistic": lambda: LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000),
    }
    if kind not in estimators:
        raise ValueError(f"unknown kind of CAV '{kind}'; allowed: pattern, {', '.join(estimators)}")
    spread = features.std(0)
    # the mean of equal numbers is rounded, so a constant feature may have a spread just above 0
    spread[spread <= CONSTANT * np.abs(features).max(0)] = 1.0
    estimator = estimators[kind]().fit((features - features.mean(0)) / spread, labels)
    # a filter acts on (x - mean) / spread, so in the layer's own coordinates it is divided by the spread
    return estimator.coef_.ravel() / spread


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
