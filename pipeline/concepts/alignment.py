"""Is a direction the concept's? Its agreement with paired changes, and what directions without meaning would reach."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.config.reveal import CavKind
from pipeline.errors import DataError
from pipeline.statistics import Interval, auroc, bootstrap

from .cav import held_out_auroc

BLOCK = 64


@dataclass(frozen=True)
class Alignment:
    """How well a direction agrees with what a concept changes in paired samples.

    Attributes:
        cosine: mean over pairs, in [-1, 1], with its bootstrap interval; `n` counts the pairs that change at all.
        standard_error: of that mean; nan for fewer than two pairs.
    """

    cosine: Interval
    standard_error: float


@dataclass(frozen=True)
class Null:
    """A figure beside the same figure where nothing is to be found.

    Attributes:
        observed: the figure.
        draws: `[R]`, the figure for each random draw; larger means more evidence.
    """

    observed: float
    draws: np.ndarray

    @property
    def p_value(self) -> float:
        """Share of draws that reach what was observed, which counts as one of them: in [1 / (R + 1), 1]."""
        return float((1 + np.count_nonzero(self.draws >= self.observed)) / (1 + len(self.draws)))


def cosines(direction: np.ndarray, differences: np.ndarray) -> np.ndarray:
    """Return the cosine of a direction `[D]` with each difference `[N, D]`; nan for a pair that does not differ."""
    lengths = np.linalg.norm(differences, axis=1) * np.linalg.norm(direction)
    return np.divide(differences @ direction, lengths, out=np.full(len(differences), np.nan), where=lengths > 0)


def alignment(direction: np.ndarray, differences: np.ndarray, *, seed: int = 0) -> Alignment:
    """Return the mean cosine of a direction with the changes that a concept makes.

    Args:
        direction: `[D]`, any length but 0.
        differences: `[N, D]`, features of a sample with the concept less those of the same sample without it. Pairs
            that do not differ have no direction and are left out.
        seed: of the bootstrap.

    Source: Pahde et al., "Navigating neural space", 2022.
    """
    found = cosines(direction, np.asarray(differences, dtype=np.float64))
    found = found[~np.isnan(found)]
    error = float(found.std(ddof=1) / math.sqrt(len(found))) if len(found) > 1 else math.nan
    return Alignment(bootstrap(found, seed=seed), error)


def random_separation(
    direction: np.ndarray, features: np.ndarray, labels: np.ndarray, *, draws: int = 200, seed: int = 0
) -> Null:
    """Return how well a direction tells the groups apart, as AUROC, beside random directions of the same space.

    A random direction counts whichever way it points: max(A, 1 - A). Where many directions separate the groups, a CAV
    that separates them says little. The direction should be fitted on other samples than these.

    Args:
        direction: `[D]`; it has a sign, so its own AUROC may lie below 0.5.
        features: `[N, D]`.
        labels: `[N]`, booleans.
        draws: R.
        seed: of the directions, which are uniform on the sphere.
    """
    features = np.asarray(features, dtype=np.float64)
    projected = _random_projections(features, draws, seed)
    areas = np.array([auroc(values, labels).value for values in projected])
    return Null(auroc(features @ direction, labels).value, np.maximum(areas, 1 - areas))


def random_alignment(direction: np.ndarray, differences: np.ndarray, *, draws: int = 200, seed: int = 0) -> Null:
    """Return |mean cosine| of a direction with paired changes, beside random directions of the same space.

    Arguments as in `alignment`; `draws` directions are uniform on the sphere, of which `seed` is the seed.
    """
    differences = np.asarray(differences, dtype=np.float64)
    lengths = np.linalg.norm(differences, axis=1)
    units = differences[lengths > 0] / lengths[lengths > 0, None]
    if not len(units):
        raise DataError(
            "No pair differs, so there is no change to align with. Pass pairs with and without the concept."
        )
    mean = units.mean(0)
    drawn = _random_projections(mean[None], draws, seed)[:, 0]
    return Null(abs(float(mean @ direction)) / float(np.linalg.norm(direction)), np.abs(drawn))


def permuted_evidence(
    features: np.ndarray, labels: np.ndarray, kind: CavKind = "pattern", *, draws: int = 100, seed: int = 0
) -> Null:
    """Return the held-out AUROC of CAVs, beside the same with labels shuffled among the samples.

    Args:
        features: `[N, D]`.
        labels: `[N]`; each value must occur at least twice.
        kind: of CAV; every draw fits as many as there are folds.
        draws: R.
        seed: of the shuffles and the folds.
    """
    labels = np.asarray(labels, dtype=bool)
    generator = np.random.default_rng(seed)
    drawn = [held_out_auroc(features, generator.permutation(labels), kind, seed=seed).value for _ in range(draws)]
    return Null(held_out_auroc(features, labels, kind, seed=seed).value, np.array(drawn))


def _random_projections(features: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Return features `[N, D]` along random unit directions, `[draws, N]`."""
    generator = np.random.default_rng(seed)
    found = []
    for start in range(0, draws, BLOCK):
        directions = generator.standard_normal((min(BLOCK, draws - start), features.shape[1]))
        found.append((directions / np.linalg.norm(directions, axis=1, keepdims=True)) @ features.T)
    return np.concatenate(found)
