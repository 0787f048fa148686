"""Detectors that say, sample by sample, whether a concept is there, with a known rate of false alarms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.config.reveal import CavKind

from .cav import fit_cav

HELD_OUT = 1 / 3
"""Share of the samples without the concept that a detector is not fitted on."""


@dataclass(frozen=True)
class Gate:
    """A linear detector: it fires where `features @ direction + offset` is above 0.

    Attributes:
        direction: `[D]`.
        offset: intercept of the detector less its threshold.
        false_alarms: share of the samples it was calibrated on, which lack the concept, in which it fires.
        detected: share of the samples with the concept in which it fires; it was fitted on them.
    """

    direction: np.ndarray
    offset: float
    false_alarms: float = math.nan
    detected: float = math.nan

    def fires(self, features: np.ndarray) -> np.ndarray:
        """Return for features `[N, D]` whether the concept is there, booleans `[N]`."""
        return features @ self.direction + self.offset > 0


def alarm_threshold(clean_scores: np.ndarray, false_alarms: float) -> float:
    """Return a threshold that a new sample without the concept exceeds with at most the given probability.

    It is the ceil((1 - rate)(n + 1))-th smallest score; where that is more than n, too few for the rate, the largest.

    Args:
        clean_scores: `[n]`, n > 0, of samples without the concept that the detector was not fitted on.
        false_alarms: rate, in [0, 1].

    Source: split conformal prediction, Vovk et al., Algorithmic Learning in a Random World, 2005, section 2.2.
    """
    count = len(clean_scores)
    if not count:
        raise ValueError("a threshold needs scores of samples without the concept")
    place = math.ceil((1 - false_alarms) * (count + 1) - 1e-9)
    return float(np.sort(clean_scores)[min(max(place, 1), count) - 1])


def fit_gate(
    features: np.ndarray,
    labels: np.ndarray,
    others: np.ndarray,
    *,
    kind: CavKind = "ridge",
    false_alarms: float = 0.05,
    seed: int = 0,
) -> Gate:
    """Fit a detector within a class, and choose its threshold on samples that it was not fitted on.

    Within one class, because a detector that saw other classes would learn the class. It will meet all classes, so the
    threshold is chosen on a third of the class's samples without the concept, and on those of other classes.

    Args:
        features: `[N, D]` of the class that carries the concept.
        labels: `[N]`, true where the concept is present.
        others: `[M, D]` of samples of other classes without the concept; M may be 0.
        kind: of CAV.
        false_alarms: rate among samples without the concept.
        seed: of the choice of samples.

    Raises:
        ValueError: fewer than two samples lack the concept, or none has it.
    """
    features, labels = np.asarray(features, dtype=np.float64), np.asarray(labels, dtype=bool)
    without = np.flatnonzero(~labels)
    if len(without) < 2 or not labels.any():
        raise ValueError(
            f"a detector needs samples with, and at least 2 without, the concept; {len(without)} are without"
        )
    held_out = np.random.default_rng(seed).permutation(without)[: max(1, int(len(without) * HELD_OUT))]
    fitted = np.setdiff1d(np.arange(len(labels)), held_out)
    cav = fit_cav(features[fitted], labels[fitted], kind, seed=seed)
    scores = np.concatenate([cav.scores(features[held_out]), cav.scores(np.asarray(others, dtype=np.float64))])
    threshold = alarm_threshold(scores, false_alarms)
    return Gate(
        cav.direction,
        cav.intercept - threshold,
        float((scores > threshold).mean()),
        float((cav.scores(features[labels]) > threshold).mean()),
    )
