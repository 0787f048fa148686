"""SpRAy: groups of samples that a class owes to different reasons (Lapuschkin et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.config.reveal import SprayConfig

from .candidates import Candidate, Detection
from .spaces import normalize_rows, space_features
from .spectral import Spectrum, choose_clusters, cluster, spectrum
from .view import ClassView, DataView


@dataclass(frozen=True)
class SprayResult:
    """The spectral view of one class in one space, and its groups.

    Attributes:
        view: spectrum and graph.
        labels: cluster numbers `[N]` at the eigengap.
        groups: memberships `[N]` of every group and of its complement, without repetition.
    """

    view: Spectrum
    labels: np.ndarray
    groups: tuple[np.ndarray, ...]


def spray(
    relevances: np.ndarray,
    *,
    neighbors: int = 16,
    eigenvectors: int = 16,
    max_clusters: int = 6,
    min_cluster_size: int = 12,
    seed: int = 0,
) -> SprayResult:
    """Cluster samples by relevance: L1 normalisation, neighbour graph, normalised Laplacian, eigenvectors, k-means.

    Args:
        relevances: `[N, ...]`, heatmaps or relevances of a layer.
        neighbors: neighbours in the graph.
        eigenvectors: size of the embedding.
        max_clusters: most clusters that the eigengap may choose.
        min_cluster_size: smaller groups, and groups that leave a smaller rest, are not reported.
        seed: of k-means.
    """
    view = spectrum(normalize_rows(relevances), neighbors=neighbors, eigenvectors=eigenvectors)
    chosen = choose_clusters(view.eigenvalues, max_clusters)
    labels = cluster(view, chosen, seed)
    partitions = [labels] if chosen == 2 else [cluster(view, 2, seed), labels]
    groups: list[np.ndarray] = []
    for partition in partitions:
        for number in np.unique(partition):
            for members in (partition == number, partition != number):
                large_enough = min_cluster_size <= members.sum() <= len(members) - min_cluster_size
                if large_enough and not any((members == other).all() for other in groups):
                    groups.append(members)
    return SprayResult(view, labels, tuple(groups))


class Spray:
    """The detector `spray`: runs `spray` class by class on heatmaps and on latent relevances."""

    def __init__(self, config: SprayConfig):
        self.config = config

    def detect(self, view: DataView) -> Detection:
        """Return every group of every class in every configured space."""
        found = []
        for space in view.spaces(self.config.spaces, "spray"):
            for each in view.classes():
                result = self.analyse(each, space)
                groups = result.groups if result else ()
                found += [Candidate("spray", each.class_id, space, each.rows, members) for members in groups]
        return Detection(found)

    def analyse(self, view: ClassView, space: str) -> SprayResult | None:
        """Return the spectral analysis of the class in one space, or None for a class that is too small."""
        if len(view.rows) < 2 * self.config.min_cluster_size:
            return None
        return spray(
            space_features(view.data, view.rows, space, quantity=self.config.quantity, grid=self.config.grid),
            neighbors=self.config.neighbors,
            eigenvectors=self.config.eigenvectors,
            max_clusters=self.config.max_clusters,
            min_cluster_size=self.config.min_cluster_size,
            seed=view.data.seed,
        )
