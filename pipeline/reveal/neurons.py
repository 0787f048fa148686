"""Outlier neurons: channels whose profile over the samples of a class is unlike that of every other channel."""

from __future__ import annotations

import numpy as np

from pipeline.config.reveal import NeuronsConfig

from .candidates import Candidate, Detection
from .neuron_groups import MIN_GROUP, neuron_members, outlier_scores, profile_distances
from .spaces import normalize_rows, space_features
from .view import ClassView, DataView


class Neurons:
    """The detector `neurons`: the samples on which an outlier neuron carries relevance form a candidate."""

    def __init__(self, config: NeuronsConfig):
        self.config = config

    def detect(self, view: DataView) -> Detection:
        """Return a group for each of the most unusual neurons of each class."""
        layers = view.layers(self.config.layers, "neurons")
        return Detection([found for each in view.classes() for layer in layers for found in self._groups(each, layer)])

    def _groups(self, view: ClassView, layer: str) -> list[Candidate]:
        if len(view.rows) < 2 * MIN_GROUP:
            return []
        profiles = normalize_rows(space_features(view.data, view.rows, layer, quantity=self.config.quantity))
        active = np.flatnonzero(np.abs(profiles).max(0) > 0)
        if len(active) < 3:
            return []
        scores = outlier_scores(profile_distances(profiles[:, active]), self.config.neighbors, self.config.score)
        found = []
        for neuron in active[np.argsort(-scores, kind="stable")[: self.config.per_class]]:
            members = neuron_members(view, layer, int(neuron))
            if members is not None:
                found.append(Candidate("neurons", view.class_id, layer, view.rows, members, (int(neuron),)))
        return found
