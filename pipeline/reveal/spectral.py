"""Spectral embedding and clustering of samples by their relevance (Lapuschkin et al. 2019, SpRAy)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

DENSE = 500


@dataclass(frozen=True)
class Spectrum:
    """The spectral view of `[N, D]` rows.

    Attributes:
        eigenvalues: `[k]` of the normalised Laplacian, ascending, in [0, 2]; small ones count the clusters.
        embedding: `[N, k]`, rows of length 1.
        graph: symmetric neighbour graph `[N, N]`, sparse.
    """

    eigenvalues: np.ndarray
    embedding: np.ndarray
    graph: sparse.csr_array


def neighbor_graph(features: np.ndarray, neighbors: int) -> sparse.csr_array:
    """Return the symmetric graph of nearest neighbours by Euclidean distance, exact, without self-loops.

    An edge weighs 1 where both ends choose each other and 1/2 where only one does: (A + A^T) / 2.
    """
    from sklearn.neighbors import kneighbors_graph

    graph = kneighbors_graph(features, min(neighbors, len(features) - 1), mode="connectivity", include_self=False)
    return sparse.csr_array((graph + graph.T) / 2)


def spectrum(features: np.ndarray, *, neighbors: int, eigenvectors: int) -> Spectrum:
    """Embed rows by the smallest eigenvectors of the symmetric normalised Laplacian I - D^-1/2 A D^-1/2.

    Deterministic: the eigensolver starts from a fixed vector and each eigenvector's largest entry is made positive.
    """
    graph = neighbor_graph(features, neighbors)
    count = graph.shape[0]
    scale = sparse.diags_array(1 / np.sqrt(np.maximum(np.asarray(graph.sum(1)).ravel(), 1e-12)))
    values, vectors = _largest(sparse.csr_array(scale @ graph @ scale), min(eigenvectors, count - 2))
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return Spectrum(np.clip(1 - values, 0, 2), vectors / lengths, graph)


def _largest(affinity: sparse.csr_array, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest eigenvalues and their eigenvectors, island by island of the graph, the largest island first.

    Every island brings the eigenvalue 1. An iterative solver finds only some of equal eigenvalues; within one island
    the largest is single.
    """
    from scipy.sparse.csgraph import connected_components

    _, island = connected_components(affinity, directed=False)
    values, vectors = np.empty(0), np.empty((len(island), 0))
    for number in np.argsort(-np.bincount(island), kind="stable"):
        rows = np.flatnonzero(island == number)
        found, inside = _largest_of_island(affinity[rows][:, rows], min(wanted, len(rows)))
        columns = np.zeros((len(island), len(found)))
        columns[rows] = inside
        values, vectors = np.concatenate([values, found]), np.concatenate([vectors, columns], axis=1)
        best = np.argsort(-values.round(9), kind="stable")[:wanted]
        values, vectors = values[best], vectors[:, best]
    return values, vectors


def _largest_of_island(affinity: sparse.csr_array, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    from scipy.linalg import eigh
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    count = affinity.shape[0]
    if count > DENSE:
        try:
            values, vectors = eigsh(affinity, k=wanted, which="LA", v0=np.random.default_rng(0).standard_normal(count))
            order = np.argsort(-values)
            return values[order], vectors[:, order]
        except ArpackNoConvergence:
            pass  # rare, for many nearly equal eigenvalues: solved below, slowly
    values, vectors = eigh(affinity.toarray(), subset_by_index=(count - wanted, count - 1))
    return values[::-1], vectors[:, ::-1]


def choose_clusters(eigenvalues: np.ndarray, most: int) -> int:
    """Return the number of clusters, at least 2, at the largest gap between neighbouring eigenvalues."""
    gaps = np.diff(eigenvalues[: most + 1])
    return int(np.argmax(gaps[1:]) + 2) if len(gaps) > 1 else 2


def cluster(view: Spectrum, clusters: int, seed: int) -> np.ndarray:
    """Return cluster numbers `[N]` by k-means on the leading eigenvectors."""
    from sklearn.cluster import KMeans

    return KMeans(clusters, n_init=10, random_state=seed).fit_predict(view.embedding[:, :clusters])


def conductance(graph: sparse.csr_array, members: np.ndarray) -> float:
    """Return the share of a group's edges that leave it, over the smaller side: 0 = an island, about 1 = no group."""
    inside = np.asarray(members, dtype=bool)
    degree = np.asarray(graph.sum(1)).ravel()
    cut = graph[inside][:, ~inside].sum()
    return float(cut / max(min(degree[inside].sum(), degree[~inside].sum()), 1e-12))
