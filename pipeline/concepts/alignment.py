"""Is a direction the concept's? Its agreement with paired changes, and what directions without meaning would reach."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.errors import DataError
from pipeline.statistics import Interval, bootstrap


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
    directions = np.random.default_rng(seed).standard_normal((draws, len(mean)))
    drawn = directions @ mean / np.linalg.norm(directions, axis=1)
    return Null(abs(float(mean @ direction)) / float(np.linalg.norm(direction)), np.abs(drawn))
