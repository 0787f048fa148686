"""Clusterings of samples by their spectral embedding, by name. None compares all pairs of samples at once."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from .neighbors import nearest_neighbors
from .spectral import Spectrum, choose_clusters, neighbor_graph
from .sweeps import sweep_cuts

ClusteringName = Literal["sweep", "kmeans", "hdbscan", "agglomerative", "dbscan"]
NOISE = -1
MOST_CUTS = 4
"""Sweep cuts that are kept, the clearest ones."""
LEAST_EPS = 0.05
"""Least radius of DBSCAN among rows of length 1: below it are rounding and samples that are as good as equal."""
LINKS = 2
"""Neighbours through which DBSCAN spreads, in samples that make a point dense."""

WARD_NEIGHBORS = 8
"""Links of each sample along which Ward's clusters may merge; its time grows with them."""


class Clustering(Protocol):
    """Divides samples into clusters."""

    def __call__(self, view: Spectrum, most: int, least_size: int, seed: int) -> list[np.ndarray]:
        """Return partitions: cluster numbers `[N]`, from 0, -1 = in no cluster. The last is the one to show.

        Args:
            view: what is divided.
            most: clusters at most, where the method is told a number.
            least_size: smaller groups are of no interest.
            seed: for methods that draw.
        """
        ...


def leading(view: Spectrum, clusters: int) -> np.ndarray:
    """Return the leading eigenvectors `[N, clusters]`, scaled to rows of length 1: K clusters lie at K places."""
    points = view.embedding[:, :clusters]
    return points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)


def cluster(view: Spectrum, clusters: int, seed: int) -> np.ndarray:
    """Return cluster numbers `[N]` by k-means on the leading eigenvectors."""
    from sklearn.cluster import KMeans

    return KMeans(clusters, n_init=10, random_state=seed).fit_predict(view.embedding[:, :clusters])


def by_sweep(view: Spectrum, most: int, least_size: int, seed: int) -> list[np.ndarray]:
    """Return the clearest cuts along single eigenvectors, each a partition in two, the clearest last."""
    cuts = sweep_cuts(view.graph, view.vectors, least_size)[:MOST_CUTS]
    return [cut.members.astype(int) for cut in reversed(cuts)] or [np.zeros(view.graph.shape[0], dtype=int)]


def by_kmeans(view: Spectrum, most: int, least_size: int, seed: int) -> list[np.ndarray]:
    """Return k-means with two clusters, and with as many as stand at the eigengap."""
    chosen = choose_clusters(view.eigenvalues, most)
    return [cluster(view, clusters, seed) for clusters in dict.fromkeys((2, chosen))]


def by_hdbscan(view: Spectrum, most: int, least_size: int, seed: int) -> list[np.ndarray]:
    """Return HDBSCAN (Campello et al. 2013) on as many leading eigenvectors as stand at the eigengap."""
    from sklearn.cluster import HDBSCAN

    points = leading(view, choose_clusters(view.eigenvalues, most))
    return [HDBSCAN(min_cluster_size=least_size, copy=True).fit_predict(points)]


def by_agglomeration(view: Spectrum, most: int, least_size: int, seed: int) -> list[np.ndarray]:
    """Return Ward's hierarchy of the leading eigenvectors, cut at the eigengap; only neighbours in them may merge."""
    from sklearn.cluster import AgglomerativeClustering

    clusters = choose_clusters(view.eigenvalues, most)
    points = leading(view, clusters)
    ward = AgglomerativeClustering(clusters, linkage="ward", connectivity=connected(_links(points), points))
    return [ward.fit_predict(points)]


def by_dbscan(view: Spectrum, most: int, least_size: int, seed: int) -> list[np.ndarray]:
    """Return DBSCAN on as many leading eigenvectors as stand at the eigengap, its radius at the knee of distances."""
    points = leading(view, choose_clusters(view.eigenvalues, most))
    return [dbscan(points, least_size)]


CLUSTERINGS: dict[ClusteringName, Clustering] = {
    "sweep": by_sweep,
    "kmeans": by_kmeans,
    "hdbscan": by_hdbscan,
    "agglomerative": by_agglomeration,
    "dbscan": by_dbscan,
}


def knee(distances: np.ndarray) -> float:
    """Return the distance at the knee of the ascending curve of distances `[N]`.

    The knee is farthest below the line from the curve's first to its last point (Satopaa et al. 2011).
    """
    curve = np.sort(distances)
    line = np.linspace(curve[0], curve[-1], len(curve))
    return float(curve[np.argmax(line - curve)])


def dbscan(points: np.ndarray, dense: int, eps: float | None = None) -> np.ndarray:
    """Return cluster numbers `[N]`, -1 = noise, by DBSCAN (Ester et al. 1996) along the nearest neighbours.

    All pairs within the radius may be as many as all pairs of samples. Clusters therefore spread through the nearest
    2 * dense neighbours within the radius, and through points at almost the same place; memory is O(N dense).

    Args:
        points: `[N, D]`.
        dense: a point is dense where so many points, itself among them, lie within the radius.
        eps: the radius; None = the knee of the distances to the neighbour that makes a point dense, at least 0.05.
    """
    dense = max(2, min(dense, len(points)))
    found = nearest_neighbors(points, LINKS * dense, exact_up_to=len(points))
    reach = found.distances[:, dense - 2]
    if eps is None:
        eps = max(knee(reach), LEAST_EPS)
    core = reach <= eps
    near = found.distances <= eps
    ends = np.repeat(np.arange(len(points)), near.sum(1)), found.indices[near]
    both = core[ends[0]] & core[ends[1]]
    side = eps / (2 * points.shape[1] ** 0.5)
    _, first, cell = np.unique(np.floor(points / side), axis=0, return_index=True, return_inverse=True)
    together = np.flatnonzero(core & core[first[cell.ravel()]])
    rows = np.concatenate([ends[0][both], together])
    columns = np.concatenate([ends[1][both], first[cell.ravel()][together]])
    links = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(points), len(points)))
    _, component = connected_components(links, directed=False)
    labels = np.full(len(points), NOISE)
    labels[core] = np.unique(component[core], return_inverse=True)[1]
    nearest_core = np.where(near & core[found.indices], found.indices, -1)
    place = (nearest_core >= 0).argmax(1)
    borrowed = nearest_core[np.arange(len(points)), place]
    border = ~core & (borrowed >= 0)
    labels[border] = labels[borrowed[border]]
    return labels


def _links(points: np.ndarray) -> sparse.csr_array:
    return neighbor_graph(points, WARD_NEIGHBORS, exact_up_to=len(points))


def connected(graph: sparse.csr_array, points: np.ndarray) -> sparse.csr_array:
    """Return the graph `[N, N]` with links between its islands, so that all samples hang together.

    Each island's most central sample is linked to that of the nearest other island, until one island is left: at most
    log2 of the number of islands times, as in Boruvka's spanning tree.
    """
    while True:
        islands, number = connected_components(graph, directed=False)
        if islands == 1:
            return graph
        sizes = np.bincount(number)
        centers = np.zeros((islands, points.shape[1]))
        np.add.at(centers, number, points)
        centers /= sizes[:, None]
        order = np.lexsort((np.linalg.norm(points - centers[number], axis=1), number))
        central = order[np.concatenate([[0], np.cumsum(sizes)[:-1]])]
        nearest = central[nearest_neighbors(centers, 1, exact_up_to=islands).indices[:, 0]]
        links = sparse.csr_array((np.ones(islands), (central, nearest)), shape=graph.shape)
        graph = sparse.csr_array(graph + links + links.T)
