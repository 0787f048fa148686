"""LEACE: a layer is freed of all that tells the artifact linearly, in closed form (Belrose et al. 2023)."""

from __future__ import annotations

import copy

import numpy as np

from pipeline.concepts.projection import Projection
from pipeline.concepts.subspace import Eraser, least_squares_eraser
from pipeline.config.mitigate import LeaceMethod
from pipeline.errors import ConfigError
from pipeline.models.build import AuditModel

from .directions import MOST_SAMPLES, CorrectedLayer, corrected_layers, features_at, sampled, usable_rows
from .interface import Correction, Problem
from .p_clarc import insert


class LeastSquaresErasure:
    """An affine map behind every layer that CAVs act in.

    It is fitted on pooled features of training and validation samples. By position the mean over positions is pooled,
    which the map of all positions moves alike; otherwise what the CAV is pooled by.
    """

    def __init__(self, config: LeaceMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a copy of the model with the maps inserted.

        Raises:
            ConfigError: CAVs are not pooled, or nothing tells who carries the artifact.
        """
        corrected, changes = copy.deepcopy(model), []
        for layer in corrected_layers(model, problem, self.config.layer):
            if layer.pooling == "full":
                raise ConfigError(
                    "mitigate.methods: leace erases concepts from channels, and reveal.cav.pooling is full. "
                    "Set it to max or mean, or take p_clarc."
                )
            pooling = "mean" if self.config.mode == "position" else layer.pooling
            eraser = _eraser(model, problem, layer, pooling, self.config.shrinkage)
            # the orthogonal projection's formula with another pair of directions
            projection = Projection(
                eraser.measured,
                eraser.offset @ eraser.measured,
                self.config.mode,
                moving=eraser.moved,
                pooling=pooling,
                channel_axis=layer.channel_axis,
            )
            changes.append(insert(corrected, layer, projection))
        return Correction(corrected, changes=changes)


def _eraser(model: AuditModel, problem: Problem, layer: CorrectedLayer, pooling: str, shrinkage: float) -> Eraser:
    """Return the eraser of all biases of a layer, as they differ from the other samples of their class."""
    table = problem.dataset.table
    rows = sampled(usable_rows(problem), MOST_SAMPLES, problem.seed)
    features = features_at(model, problem.dataset, rows, layer, pooling)
    ids, labels = table["id"].astype(str).to_numpy()[rows], table["label"].to_numpy()[rows]
    carrying = np.stack([np.isin(ids, known.bias.sample_ids) for known, _ in layer.biases], 1)
    return class_wise_eraser(features, carrying, labels, shrinkage)


def class_wise_eraser(features: np.ndarray, carrying: np.ndarray, labels: np.ndarray, shrinkage: float = 0.0) -> Eraser:
    """Return the least-squares eraser of who carries an artifact, given the class.

    Class means are taken off first: an artifact that comes with one class must not take the class away with it.
    Erased features get the values of samples that carry nothing.

    Args:
        features: `[N, D]`.
        carrying: `[N, m]`, booleans.
        labels: class ids `[N]`.
        shrinkage: see `least_squares_eraser`.
    """
    centered, concepts = features.copy(), carrying.astype(np.float64)
    for label in np.unique(labels):
        own = labels == label
        centered[own] -= features[own].mean(0)
        concepts[own] -= concepts[own].mean(0)
    found = least_squares_eraser(centered, concepts, shrinkage=shrinkage)
    return Eraser(found.moved, found.measured, features[~carrying.any(1)].mean(0))
