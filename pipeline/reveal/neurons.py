"""Neurons by relevance pattern: channels, and small groups of channels, unlike all others of their layer.

A neuron is described by its values over the samples of a class; neurons are near where these run in parallel (Achtibat
et al. 2023, concept clustering). Distances are measured among the channels themselves, not in a map of them, because
maps tear apart what is near.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.config.reveal import NeuronsConfig
from pipeline.workspace.pictures import scatter_image

from .candidates import Candidate, Detection
from .neuron_groups import (
    MIN_GROUP,
    NeuronGroup,
    classical_scaling,
    neuron_clusters,
    neuron_tree,
    outlier_scores,
    profile_distances,
    share_members,
    small_groups,
)
from .spaces import normalize_rows, space_features
from .view import ClassView, DataView

LARGEST_GROUP = 10
LEAST_GAP = 0.25
"""Of the cosine distance; groups that come nearer to the rest are no groups of their own."""
MOST_MAPS = 6
DISTANCE_BYTES = 2**28
"""Distances are kept of the first classes and layers until they fill this much; they follow from the feature store."""


@dataclass(frozen=True)
class NeuronAnalysis:
    """How the neurons of one layer relate over the samples of one class.

    Attributes:
        channels: `[C]`, those that are not silent on every sample.
        profiles: `[N, C]`, what is compared.
        distances: `[C, C]`, 1 - cosine similarity, in [0, 2].
        scores: `[C]`, how unlike all others; larger = more unlike.
        clusters: `[C]`, number of the cluster, 0 the largest.
        groups: small groups far from the rest, channels as positions in `channels`.
    """

    channels: np.ndarray
    profiles: np.ndarray
    distances: np.ndarray
    scores: np.ndarray
    clusters: np.ndarray
    groups: tuple[NeuronGroup, ...]

    def outliers(self, most: int) -> np.ndarray:
        """Return positions in `channels` of the most unusual neurons, the most unusual first."""
        return np.argsort(-self.scores, kind="stable")[:most]


@dataclass(frozen=True)
class _Map:
    """A map of neurons that may be drawn; `prominence` = highest score over the median score."""

    prominence: float
    caption: str
    points: np.ndarray
    clusters: np.ndarray
    named: dict[int, str]

    def draw(self) -> Image.Image:
        return scatter_image(self.points, self.clusters, self.named, self.caption)


class Neurons:
    """The detector `neurons`.

    Candidates are the samples on which an outlier neuron, or a small group of neurons together, carries much of the
    relevance. Figures are stored under `<class id>/<layer>/`: `channels`, `distances`, `scores`, `clusters`, and the
    two-dimensional `map`; pictures show the maps of the classes in which a neuron stands out most.
    """

    def __init__(self, config: NeuronsConfig):
        self.config = config

    def detect(self, view: DataView) -> Detection:
        """Return groups for the most unusual neurons and groups of neurons of each class and layer.

        Raises:
            ConfigError: a configured layer is not stored.
            StoreError: the configured quantity is not stored.
        """
        candidates: list[Candidate] = []
        arrays: dict[str, np.ndarray] = {}
        maps: list[_Map] = []
        left = DISTANCE_BYTES
        layers = view.layers(self.config.layers, "neurons")
        for each in view.reporter.track(list(view.classes()), "neurons, class by class"):
            of_class: list[_Map] = []
            for layer in layers:
                analysis = self.analyse(each, layer)
                if analysis is None:
                    continue
                candidates += self._candidates(each, layer, analysis)
                points = classical_scaling(analysis.distances)
                figures = {
                    "channels": analysis.channels,
                    "scores": analysis.scores.astype(np.float32),
                    "clusters": analysis.clusters.astype(np.int32),
                    "map": points.astype(np.float32),
                }
                distances = analysis.distances.astype(np.float16)
                if distances.nbytes <= left:
                    left -= distances.nbytes
                    figures["distances"] = distances
                arrays |= {f"{each.class_id}/{layer}/{name}": values for name, values in figures.items()}
                of_class.append(self._map(each, layer, analysis, points))
            maps += sorted(of_class, key=lambda found: -found.prominence)[:1]
        maps.sort(key=lambda found: -found.prominence)
        return Detection(candidates, arrays, {found.caption: found.draw() for found in maps[:MOST_MAPS]})

    def analyse(self, view: ClassView, layer: str) -> NeuronAnalysis | None:
        """Return how the neurons of a layer relate; None for a small class or a layer with fewer than three at work."""
        if len(view.rows) < 2 * MIN_GROUP:
            return None
        profiles = normalize_rows(space_features(view.data, view.rows, layer, quantity=self.config.quantity))
        channels = np.flatnonzero(np.abs(profiles).max(0) > 0)
        if len(channels) < 3:
            return None
        profiles = profiles[:, channels]
        distances = profile_distances(profiles)
        tree = neuron_tree(distances)
        return NeuronAnalysis(
            channels,
            profiles,
            distances,
            outlier_scores(distances, self.config.neighbors, self.config.score),
            neuron_clusters(distances, tree),
            tuple(small_groups(tree, LARGEST_GROUP, LEAST_GAP)),
        )

    def _map(self, view: ClassView, layer: str, analysis: NeuronAnalysis, points: np.ndarray) -> _Map:
        quantity, _, pooling = self.config.quantity.partition("_")
        what = {"max": f"largest {quantity}", "mean": f"mean {quantity}"}.get(pooling, quantity)
        marked = analysis.outliers(self.config.per_class)
        return _Map(
            float(analysis.scores.max() / max(np.median(analysis.scores), 1e-12)),
            f"neurons of {layer} by {what} over the samples of class {view.class_name}",
            points,
            analysis.clusters,
            {int(place): str(analysis.channels[place]) for place in marked},
        )

    def _candidates(self, view: ClassView, layer: str, analysis: NeuronAnalysis) -> list[Candidate]:
        shares = self._shares(view, layer, analysis)
        count = len(analysis.channels)
        wanted: list[tuple[tuple[int, ...], str]] = []
        for place in analysis.outliers(self.config.per_class):
            note = f"neuron {analysis.channels[place]} of {layer} acts unlike the other {count - 1}"
            wanted.append(((int(place),), f"{note}: {self._how_far(analysis, place)}"))
        for group in analysis.groups[: self.config.per_class]:
            names = ", ".join(str(analysis.channels[place]) for place in group.channels)
            wanted.append(
                (
                    group.channels,
                    f"neurons {names} of {layer} act alike and unlike the others: {group.inside:.2f} "
                    f"apart among themselves, {group.outside:.2f} from the nearest others",
                )
            )
        found = []
        for places, note in wanted:
            members = share_members(shares[:, list(places)].sum(1))
            if members is not None:
                note = f"{note}; they carry" if len(places) > 1 else f"{note}; it carries"
                note = f"{note} much of the relevance of {members.sum()} of {len(members)} samples."
                neurons = tuple(int(analysis.channels[place]) for place in places)
                found.append(Candidate("neurons", view.class_id, layer, view.rows, members, neurons, note))
        return found

    def _how_far(self, analysis: NeuronAnalysis, place: int) -> str:
        usual = float(np.median(analysis.scores))
        if self.config.score == "lof":
            return f"local outlier factor {analysis.scores[place]:.2f}, the median is {usual:.2f}"
        return f"its nearest are {analysis.scores[place]:.2f} away, the median is {usual:.2f}"

    def _shares(self, view: ClassView, layer: str, analysis: NeuronAnalysis) -> np.ndarray:
        """Return each neuron's share `[N, C]` of the relevance of a sample, whatever quantity is compared."""
        if self.config.quantity == "relevance":
            return analysis.profiles
        return normalize_rows(space_features(view.data, view.rows, layer))[:, analysis.channels]
