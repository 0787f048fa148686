"""SpRAy: groups of samples that a class owes to different reasons (Lapuschkin et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.config.reveal import SprayConfig
from pipeline.errors import ConfigError, nearest

from .candidates import Candidate, ClassView
from .spectral import Spectrum, choose_clusters, cluster, conductance, normalize_rows, spectrum


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

    LATENT_LAYERS = 2

    def __init__(self, config: SprayConfig):
        self.config = config

    def detect(self, view: ClassView) -> list[Candidate]:
        """Return every group of the class in every configured space."""
        found = []
        for space in self._spaces(view):
            result = self.analyse(view, space)
            if result is None:
                return []
            found += [
                Candidate("spray", view.class_id, space, view.rows, members, conductance(result.view.graph, members))
                for members in result.groups
            ]
        return found

    def analyse(self, view: ClassView, space: str) -> SprayResult | None:
        """Return the spectral analysis of the class in one space, or None for a class that is too small."""
        if len(view.rows) < 2 * self.config.min_cluster_size:
            return None
        return spray(
            self._relevances(view, space),
            neighbors=self.config.neighbors,
            eigenvectors=self.config.eigenvectors,
            max_clusters=self.config.max_clusters,
            min_cluster_size=self.config.min_cluster_size,
            seed=view.seed,
        )

    def _spaces(self, view: ClassView) -> list[str]:
        spaces: list[str] = []
        for space in self.config.spaces:
            if space == "heatmap":
                spaces.append("input")
            elif space == "latent":
                spaces += view.deep_layers[: self.LATENT_LAYERS]
            elif space in view.store.layers:
                spaces.append(space)
            else:
                known = ["heatmap", "latent", *view.store.layers]
                raise ConfigError(
                    f"reveal.detectors: spray cannot look at '{space}'.{nearest(space, known)} "
                    f"Allowed: {', '.join(known)}."
                )
        return list(dict.fromkeys(spaces))

    def _relevances(self, view: ClassView, space: str) -> np.ndarray:
        if space == "input":
            return pool_to_grid(view.store.heatmaps(view.condition, view.rows), self.config.grid)
        return view.store.relevances(space, view.condition, view.rows)


def pool_to_grid(heatmaps: np.ndarray, grid: int) -> np.ndarray:
    """Return heatmaps `[N, H, W]` averaged over grid x grid cells; smaller heatmaps stay as they are."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    if max(heatmaps.shape[1:]) <= grid:
        return heatmaps
    return adaptive_avg_pool2d(torch.from_numpy(heatmaps)[:, None], grid)[:, 0].numpy()
