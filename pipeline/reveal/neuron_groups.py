"""Neurons unlike all others, and the samples on which a neuron carries relevance."""

from __future__ import annotations

from typing import Literal

import numpy as np

from pipeline.concepts.localization import otsu_threshold

from .spaces import normalize_rows
from .view import ClassView

MIN_GROUP = 12


def profile_distances(profiles: np.ndarray) -> np.ndarray:
    """Return 1 - cosine similarity `[C, C]` between the columns of `[N, C]`, clipped at 0."""
    unit = profiles / np.maximum(np.linalg.norm(profiles, axis=0, keepdims=True), 1e-12)
    return np.clip(1 - unit.T @ unit, 0, None)


def outlier_scores(distances: np.ndarray, neighbors: int, score: Literal["knn", "lof"] = "knn") -> np.ndarray:
    """Return how unlike all others each item `[C]` is; larger = more unlike.

    Args:
        distances: `[C, C]`, symmetric, C at least 3.
        neighbors: others that count; lowered to C - 1.
        score: "knn" = mean distance to the nearest others; "lof" = local outlier factor (Breunig et al. 2000).
    """
    neighbors = min(neighbors, len(distances) - 1)
    if score == "lof":
        from sklearn.neighbors import LocalOutlierFactor

        clean = np.array(distances)
        np.fill_diagonal(clean, 0)
        return -LocalOutlierFactor(n_neighbors=neighbors, metric="precomputed").fit(clean).negative_outlier_factor_
    others = distances + np.diag(np.full(len(distances), np.inf))
    return np.partition(others, neighbors - 1, axis=1)[:, :neighbors].mean(1)


def neuron_members(view: ClassView, layer: str, neuron: int) -> np.ndarray | None:
    """Return the samples `[len(view.rows)]` on which a neuron carries much of the relevance; None for no real group."""
    relevances = view.data.store.relevances(layer, view.data.condition, view.rows)
    share = normalize_rows(relevances)[:, neuron]
    members = share > otsu_threshold(share)
    return members if MIN_GROUP <= members.sum() <= len(members) - MIN_GROUP else None
