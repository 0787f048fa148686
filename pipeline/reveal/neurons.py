"""Outlier neurons: channels whose relevance over the samples of a class follows a pattern of their own."""

from __future__ import annotations

import numpy as np

from pipeline.concepts.localization import otsu_threshold
from pipeline.config.reveal import NeuronsConfig
from pipeline.errors import ConfigError, nearest

from .candidates import Candidate, ClassView
from .spectral import conductance, neighbor_graph, normalize_rows

MIN_GROUP = 12
GRAPH_NEIGHBORS = 16


def profile_distances(relevances: np.ndarray) -> np.ndarray:
    """Return 1 - cosine similarity `[C, C]` between the profiles (columns) of relevances `[N, C]`, clipped at 0."""
    profiles = relevances / np.maximum(np.linalg.norm(relevances, axis=0, keepdims=True), 1e-12)
    return np.clip(1 - profiles.T @ profiles, 0, None)


def outlier_scores(distances: np.ndarray, neighbors: int) -> np.ndarray:
    """Return the mean distance `[C]` of each neuron to its nearest others; large = unlike every other neuron."""
    others = distances + np.diag(np.full(len(distances), np.inf))
    nearest = np.sort(others, axis=1)[:, : min(neighbors, len(distances) - 1)]
    return nearest.mean(1)


class Neurons:
    """The detector `neurons`: the samples on which an outlier neuron carries relevance form a candidate."""

    LATENT_LAYERS = 2

    def __init__(self, config: NeuronsConfig):
        self.config = config

    def detect(self, view: ClassView) -> list[Candidate]:
        """Return a group for each of the most unusual neurons of the class."""
        found = []
        if len(view.rows) < 2 * MIN_GROUP:
            return found
        for layer in self._layers(view):
            relevances = view.store.relevances(layer, view.condition, view.rows)
            active = np.flatnonzero(np.abs(relevances).max(0) > 0)
            if len(active) < 3:
                continue
            shares = normalize_rows(relevances)
            scores = outlier_scores(profile_distances(shares[:, active]), self.config.neighbors)
            graph = neighbor_graph(shares, GRAPH_NEIGHBORS)
            for neuron in active[np.argsort(-scores)[: self.config.per_class]]:
                members = shares[:, neuron] > otsu_threshold(shares[:, neuron])
                if MIN_GROUP <= members.sum() <= len(members) - MIN_GROUP:
                    found.append(
                        Candidate(
                            "neurons",
                            view.class_id,
                            layer,
                            view.rows,
                            members,
                            conductance(graph, members),
                            (int(neuron),),
                        )
                    )
        return found

    def _layers(self, view: ClassView) -> tuple[str, ...]:
        if self.config.layers == "auto":
            return view.deep_layers[: self.LATENT_LAYERS]
        unknown = [layer for layer in self.config.layers if layer not in view.store.layers]
        if unknown:
            raise ConfigError(
                f"reveal.detectors: neurons cannot look at '{unknown[0]}'."
                f"{nearest(unknown[0], list(view.store.layers))} Stored layers: {', '.join(view.store.layers)}."
            )
        return tuple(self.config.layers)
