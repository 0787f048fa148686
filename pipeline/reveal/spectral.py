"""Spectral embedding of samples by their relevance (Lapuschkin et al. 2019, SpRAy)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from pipeline.errors import DataError

from .neighbors import EXACT_UP_TO, Neighbors, nearest_neighbors

DENSE = 500
"""Islands of up to so many samples are solved exactly."""
TOLERANCE = 1e-4
"""Residual at which the iterative solver stops; eigenvalues are then good to about its square over their gap."""
TRIES = (2, 4, 8)
"""Sizes of the iterative solver's basis, in wanted eigenvectors, until it converges."""


@dataclass(frozen=True)
class Spectrum:
    """The spectral view of `[N, D]` rows.

    Attributes:
        eigenvalues: `[k]` of the normalised Laplacian, ascending, in [0, 2]; small ones count the clusters.
        embedding: `[N, k]`, rows of length 1; of length 0 in islands that are too small to be among the first k.
        vectors: `[N, k]`, eigenvectors of length 1.
        graph: symmetric neighbour graph `[N, N]`, sparse.
        recall: share of the true neighbours in the graph, in [0, 1]; 1 where all pairs were compared.
    """

    eigenvalues: np.ndarray
    embedding: np.ndarray
    vectors: np.ndarray
    graph: sparse.csr_array
    recall: float = 1.0


def neighbor_graph(
    features: np.ndarray, neighbors: int, *, exact_up_to: int = EXACT_UP_TO, seed: int = 0
) -> sparse.csr_array:
    """Return the symmetric graph `[N, N]` of nearest neighbours by Euclidean distance, without self-loops.

    An edge weighs 1 where both ends choose each other and 1/2 where only one does: (A + A^T) / 2. The search is exact
    for up to `exact_up_to` rows.
    """
    return join(nearest_neighbors(features, neighbors, exact_up_to=exact_up_to, seed=seed))


def join(found: Neighbors) -> sparse.csr_array:
    """Return the symmetric graph `[N, N]` of each sample's neighbours, (A + A^T) / 2."""
    count, neighbors = found.indices.shape
    starts = np.arange(0, count * neighbors + 1, neighbors)
    chosen = sparse.csr_array((np.ones(found.indices.size), found.indices.ravel(), starts), shape=(count, count))
    return sparse.csr_array((chosen + chosen.T) / 2)


def spectrum(
    features: np.ndarray, *, neighbors: int, eigenvectors: int, exact_up_to: int = EXACT_UP_TO, seed: int = 0
) -> Spectrum:
    """Embed rows by the smallest eigenvectors of the symmetric normalised Laplacian I - D^-1/2 A D^-1/2.

    Deterministic: the eigensolver starts from a fixed vector and each eigenvector's largest entry is made positive.

    Args:
        features: `[N, D]`, N at least 3, normalised as wanted (`spaces.normalize_rows`).
        neighbors: neighbours in the graph.
        eigenvectors: size of the embedding; lowered to N - 2.
        exact_up_to: more rows get an approximate graph.
        seed: of the approximate graph; the exact one needs none.
    """
    found = nearest_neighbors(features, neighbors, exact_up_to=exact_up_to, seed=seed)
    graph = join(found)
    values, vectors = eigenvectors_of(graph, min(eigenvectors, graph.shape[0] - 2))
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return Spectrum(values, vectors / lengths, vectors, graph, found.recall)


def eigenvectors_of(graph: sparse.csr_array, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest eigenvalues of the normalised Laplacian `[k]`, in [0, 2], and unit eigenvectors `[N, k]`.

    Found island by island of the graph, the largest island first. Every island brings the eigenvalue 0, of which an
    iterative solver finds only some; within one island it is single. Islands beyond the first k cannot matter.
    """
    from scipy.sparse.csgraph import connected_components

    scale = 1 / np.sqrt(np.maximum(np.asarray(graph.sum(1)).ravel(), 1e-12))
    affinity = sparse.csr_array(graph, dtype=np.float64, copy=True)
    affinity.data *= np.repeat(scale, np.diff(affinity.indptr))
    affinity.data *= scale[affinity.indices]
    _, island = connected_components(affinity, directed=False)
    sizes = np.bincount(island)
    largest = np.argsort(-sizes, kind="stable")[:wanted]
    inside = [np.flatnonzero(island == number) for number in largest]
    only_first = len(largest) == wanted  # so many zeros leave no room for any other eigenvalue
    found = [
        _largest_of_island(affinity[rows][:, rows] if len(largest) > 1 else affinity, 1 if only_first else wanted)
        for rows in inside
    ]
    values = np.concatenate([each for each, _ in found])
    owners = np.repeat(np.arange(len(found)), [len(each) for each, _ in found])
    columns = np.concatenate([np.arange(len(each)) for each, _ in found])
    best = np.argsort(-values.round(9), kind="stable")[:wanted]
    vectors = np.zeros((len(island), len(best)))
    for place, chosen in enumerate(best):
        vectors[inside[owners[chosen]], place] = found[owners[chosen]][1][:, columns[chosen]]
    return np.clip(1 - values[best], 0, 2), vectors


def _largest_of_island(affinity: sparse.csr_array, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest eigenvalues, descending, and their eigenvectors; at most as many as there are samples."""
    from scipy.linalg import eigh
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    count = affinity.shape[0]
    if count <= max(DENSE, wanted + 1):
        values, vectors = eigh(affinity.toarray(), subset_by_index=(count - min(wanted, count), count - 1))
        return values[::-1], vectors[:, ::-1]
    start = np.random.default_rng(0).standard_normal(count)
    single = affinity.astype(np.float32)
    for times in TRIES:
        basis = min(count, max(times * wanted + 1, 20))
        try:
            vectors = eigsh(single, wanted, which="LA", v0=start.astype(np.float32), ncv=basis, tol=TOLERANCE)[1]
            return _refined(affinity, vectors)
        except ArpackNoConvergence:
            continue  # rare, for many nearly equal eigenvalues; a larger basis tells them apart
    raise DataError(
        f"The {wanted} leading eigenvectors of the neighbour graph of {count} samples were not found. "
        "Change 'eigenvectors' or 'neighbors' of the detector."
    )


def _refined(affinity: sparse.csr_array, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvalues, descending, and vectors of the affinity in the span of approximate ones (Rayleigh-Ritz)."""
    basis, _ = np.linalg.qr(vectors.astype(np.float64))
    values, turn = np.linalg.eigh(basis.T @ (affinity @ basis))
    return values[::-1], basis @ turn[:, ::-1]


def choose_clusters(eigenvalues: np.ndarray, most: int) -> int:
    """Return the number of clusters, at least 2, at the largest gap between neighbouring eigenvalues."""
    gaps = np.diff(eigenvalues[: most + 1])
    return int(np.argmax(gaps[1:]) + 2) if len(gaps) > 1 else 2


def conductance(graph: sparse.csr_array, members: np.ndarray) -> float:
    """Return the share of a group's edges that leave it, over the smaller side: 0 = an island, about 1 = no group."""
    inside = np.asarray(members, dtype=bool)
    degree = np.asarray(graph.sum(1)).ravel()
    cut = graph[inside][:, ~inside].sum()
    return float(cut / max(min(degree[inside].sum(), degree[~inside].sum()), 1e-12))
