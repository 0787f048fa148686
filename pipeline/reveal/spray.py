"""SpRAy: groups of samples that a class owes to different reasons (Lapuschkin et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.config.reveal import Quantity, SprayConfig

from .candidates import Candidate, Detection
from .clusterings import CLUSTERINGS, NOISE, ClusteringName
from .neighbors import EXACT_UP_TO
from .spaces import Normalization, normalize_rows, space_features
from .spectral import Spectrum, conductance, spectrum
from .view import ClassView, DataView


@dataclass(frozen=True)
class SprayResult:
    """The spectral view of samples in one space, and its groups.

    Attributes:
        view: spectrum and graph.
        labels: cluster numbers `[N]`, -1 = in no cluster; with k-means, of the partition at the eigengap.
        groups: memberships `[N]` of every group and of its complement, without repetition.
        clusters: memberships `[N]` of every cluster of every partition, of any size, without repetition.
    """

    view: Spectrum
    labels: np.ndarray
    groups: tuple[np.ndarray, ...]
    clusters: tuple[np.ndarray, ...]

    def arrays(self, rows: np.ndarray, prefix: str) -> dict[str, np.ndarray]:
        """Return the figures behind the groups by name; `rows` `[N]` says which rows of the store they are of."""
        return {
            f"{prefix}/rows": rows,
            f"{prefix}/eigenvalues": self.view.eigenvalues,
            f"{prefix}/embedding": self.view.embedding.astype(np.float32),
            f"{prefix}/labels": self.labels,
            f"{prefix}/recall": np.array(self.view.recall),
        }


def spray(
    relevances: np.ndarray,
    *,
    neighbors: int = 16,
    eigenvectors: int = 16,
    max_clusters: int = 6,
    min_cluster_size: int = 12,
    normalization: Normalization = "l1",
    clustering: ClusteringName = "sweep",
    exact_up_to: int = EXACT_UP_TO,
    seed: int = 0,
) -> SprayResult:
    """Cluster samples by relevance: normalisation, neighbour graph, normalised Laplacian, eigenvectors, clustering.

    Args:
        relevances: `[N, ...]`, heatmaps or relevances of a layer.
        neighbors: neighbours in the graph.
        eigenvectors: size of the embedding.
        max_clusters: most clusters that the eigengap may choose.
        min_cluster_size: smaller groups, and groups that leave a smaller rest, are not reported.
        normalization: of each sample, "l1", "l2" or "none".
        clustering: "sweep" (the clearest cuts along eigenvectors), "kmeans" (in two, and at the eigengap), "hdbscan",
            "agglomerative" or "dbscan".
        exact_up_to: more samples get an approximate neighbour graph.
        seed: of the clustering and of the approximate graph.
    """
    relevances = normalize_rows(relevances, normalization)  # in their place, so that memory holds them once
    view = spectrum(relevances, neighbors=neighbors, eigenvectors=eigenvectors, exact_up_to=exact_up_to, seed=seed)
    partitions = CLUSTERINGS[clustering](view, max_clusters, min_cluster_size, seed)
    clusters = _distinct([part == number for part in partitions for number in np.unique(part[part != NOISE])])
    sides = [side for members in clusters for side in (members, ~members)]
    groups = [side for side in _distinct(sides) if is_group(side, min_cluster_size)]
    return SprayResult(view, partitions[-1], tuple(groups), tuple(clusters))


def is_group(members: np.ndarray, least: int) -> bool:
    """Return whether both those who belong and those who do not are at least so many."""
    return bool(least <= members.sum() <= len(members) - least)


def _distinct(memberships: list[np.ndarray]) -> list[np.ndarray]:
    return list({members.tobytes(): members for members in memberships}.values())


class Spray:
    """The detector `spray`: runs `spray` on heatmaps and on latent relevances, class by class or on all classes."""

    def __init__(self, config: SprayConfig):
        self.config = config

    def detect(self, view: DataView) -> Detection:
        """Return every group of every class in every configured space, and the figures behind them.

        The arrays lie under "<class id>/<space>/<quantity>/" or, with all classes at once, under "all/...": rows of the
        store `[N]`, eigenvalues `[k]`, embedding `[N, k]`, labels `[N]` (-1 = in no cluster), and the recall of the
        neighbour graph.
        """
        found: list[Candidate] = []
        arrays: dict[str, np.ndarray] = {}
        for space, quantity in view.reporter.track(self._seen(view), "spectral analysis"):
            if self.config.scope == "all":
                result = self.analyse_all(view, space, quantity)
                if result:
                    found += self._of_all_classes(view, space, quantity, result)
                    arrays |= result.arrays(view.rows, f"all/{space}/{quantity}")
                continue
            for each in view.classes():
                result = self.analyse(each, space, quantity)
                if result:
                    found += [_candidate(each, space, quantity, members, result) for members in result.groups]
                    arrays |= result.arrays(each.rows, f"{each.class_id}/{space}/{quantity}")
        return Detection(found, arrays)

    def analyse(self, view: ClassView, space: str, quantity: Quantity = "relevance") -> SprayResult | None:
        """Return the spectral analysis of the class in one space, or None for a class that is too small."""
        return self._analyse(view.data, view.rows, space, quantity, self.config.max_clusters)

    def analyse_all(self, view: DataView, space: str, quantity: Quantity = "relevance") -> SprayResult | None:
        """Return the spectral analysis of all classes at once in one space, or None for too few samples.

        Classes differ by themselves: there may be `max_clusters` times as many clusters as there are classes.
        """
        present = len(np.unique(view.labels))
        return self._analyse(view, view.rows, space, quantity, present * self.config.max_clusters)

    def _seen(self, view: DataView) -> list[tuple[str, Quantity]]:
        """Return spaces with what is compared there; of the input there are only heatmaps."""
        spaces = view.spaces(self.config.spaces, "spray")
        pairs = [
            (space, "relevance" if space == "input" else each) for space in spaces for each in self.config.quantities
        ]
        return list(dict.fromkeys(pairs))

    def _analyse(
        self, data: DataView, rows: np.ndarray, space: str, quantity: Quantity, most: int
    ) -> SprayResult | None:
        if len(rows) < 2 * self.config.min_cluster_size:
            return None
        return spray(
            space_features(data, rows, space, quantity=quantity, grid=self.config.grid),
            neighbors=self.config.neighbors,
            eigenvectors=self.config.eigenvectors,
            max_clusters=most,
            min_cluster_size=self.config.min_cluster_size,
            normalization=self.config.normalization,
            clustering=self.config.clustering,
            exact_up_to=self.config.exact_up_to,
            seed=data.seed,
        )

    def _of_all_classes(self, view: DataView, space: str, quantity: Quantity, result: SprayResult) -> list[Candidate]:
        """Return each cluster as a group of the class that most of its members belong to."""
        classes = {each.class_id: each for each in view.classes()}
        found: dict[tuple[int, bytes], Candidate] = {}
        for members in result.clusters:
            inside = np.bincount(view.labels[members], minlength=len(classes))
            owner = classes[int(inside.argmax())]
            of_class = members[view.labels == owner.class_id]
            if is_group(of_class, self.config.min_cluster_size):
                note = (
                    f"{of_class.sum()} of {len(of_class)} samples of the class are in a cluster of {members.sum()} "
                    f"samples among all classes."
                )
                candidate = Candidate(
                    "spray", owner.class_id, space, owner.rows, of_class, note=note, quantity=quantity
                )
                found.setdefault((owner.class_id, of_class.tobytes()), candidate)
        return list(found.values())


def _candidate(view: ClassView, space: str, quantity: Quantity, members: np.ndarray, result: SprayResult) -> Candidate:
    leaving = conductance(result.view.graph, members)
    note = f"{members.sum()} of {len(members)} samples; {leaving:.1%} of their links in the neighbour graph leave them."
    return Candidate("spray", view.class_id, space, view.rows, members, note=note, quantity=quantity)
