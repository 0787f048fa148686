"""Neurons unlike all others, groups of neurons that act alike, and the samples on which neurons carry relevance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.concepts.localization import otsu_threshold

from .spaces import normalize_rows
from .view import ClassView

MIN_GROUP = 12
MOST_CLUSTERS = 20
DENSE = 100


@dataclass(frozen=True)
class NeuronGroup:
    """A few neurons that act alike and unlike the rest.

    Attributes:
        channels: positions in the distance matrix, ascending.
        inside: mean distance at which the last of them joined.
        outside: mean distance at which they join the nearest other neurons.
    """

    channels: tuple[int, ...]
    inside: float
    outside: float


def profile_distances(profiles: np.ndarray) -> np.ndarray:
    """Return 1 - cosine similarity `[C, C]` between the columns of `[N, C]`, in [0, 2].

    Achtibat et al. 2023: neurons are compared by what they contribute over the samples of a class. A column of zeros is
    1 away from all.
    """
    unit = profiles / np.maximum(np.linalg.norm(profiles, axis=0, keepdims=True), 1e-12)
    distances = unit.T @ unit
    np.subtract(1, distances, out=distances)
    return np.maximum(distances, 0, out=distances)


def outlier_scores(distances: np.ndarray, neighbors: int, score: Literal["knn", "lof"] = "knn") -> np.ndarray:
    """Return how unlike all others each item `[C]` is; larger = more unlike.

    Args:
        distances: `[C, C]`, symmetric, C at least 3.
        neighbors: others that count; lowered to C - 1.
        score: "knn" = mean distance to the nearest others; "lof" = local outlier factor (Breunig et al. 2000).
    """
    neighbors = min(neighbors, len(distances) - 1)
    others = np.array(distances)
    if score == "lof":
        from sklearn.neighbors import LocalOutlierFactor

        np.fill_diagonal(others, 0)
        return -LocalOutlierFactor(n_neighbors=neighbors, metric="precomputed").fit(others).negative_outlier_factor_
    np.fill_diagonal(others, np.inf)
    return np.partition(others, neighbors - 1, axis=1)[:, :neighbors].mean(1)


def neuron_tree(distances: np.ndarray) -> np.ndarray:
    """Return the merges `[C - 1, 4]` of agglomerative clustering by average linkage, in the form of SciPy.

    Args:
        distances: `[C, C]`, symmetric; what is on the diagonal does not count.
    """
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    return linkage(squareform(distances, checks=False), "average")


def neuron_clusters(distances: np.ndarray, tree: np.ndarray, most: int = MOST_CLUSTERS) -> np.ndarray:
    """Return cluster numbers `[C]`, the largest cluster 0: the cut of the tree with the largest mean silhouette.

    Of 2 to `most` clusters; of equally good numbers the smallest (Rousseeuw 1987). A neuron alone counts 0.

    Args:
        distances: `[C, C]`, symmetric, C at least 3.
        tree: see `neuron_tree`.
        most: clusters at most; lowered to C - 1.
    """
    from scipy.cluster.hierarchy import fcluster

    best, found = -np.inf, np.zeros(len(distances), dtype=np.int64)
    for number in range(2, min(most, len(distances) - 1) + 1):
        labels = fcluster(tree, number, "maxclust") - 1
        quality = mean_silhouette(distances, labels) if labels.any() else -1.0
        if quality > best:
            best, found = quality, labels
    rank = np.argsort(np.argsort(-np.bincount(found), kind="stable"))
    return rank[found]


def mean_silhouette(distances: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean silhouette in [-1, 1] of a clustering: (b - a) / max(a, b), 0 for items that are alone.

    Args:
        distances: `[C, C]`, symmetric; what is on the diagonal does not count.
        labels: cluster numbers `[C]` from 0 without gaps, at least two clusters.
    """
    member = np.eye(labels.max() + 1, dtype=distances.dtype)[labels]
    sizes = member.sum(0)
    sums = distances @ member
    own = sizes[labels]
    items = np.arange(len(labels))
    inside = (sums[items, labels] - np.diag(distances)) / np.maximum(own - 1, 1)
    means = sums / sizes
    means[items, labels] = np.inf
    nearest = means.min(1)
    scores = (nearest - inside) / np.maximum(np.maximum(nearest, inside), 1e-12)
    return float(np.where(own > 1, scores, 0).mean())


def small_groups(tree: np.ndarray, largest: int, gap: float) -> list[NeuronGroup]:
    """Return groups of 2 to `largest` neurons that stand far from the rest, the farthest first, none within another.

    A group is a branch of the tree. It stands far where it joins others at a mean distance that is larger, by `gap` at
    least, than the one at which it came together. Of branches within one another the one with the largest gap remains.

    Args:
        tree: see `neuron_tree`.
        largest: neurons in a group at most; no group holds more than half of all.
        gap: in units of the distance.
    """
    count = len(tree) + 1
    largest = min(largest, count // 2)
    branches: list[frozenset[int] | None] = [frozenset([channel]) for channel in range(count)]
    groups: list[NeuronGroup] = []
    for first, second, height, _ in tree:
        parts = [branches[int(first)], branches[int(second)]]
        for part, number in zip(parts, (int(first), int(second)), strict=True):
            inside = tree[number - count, 2] if number >= count else 0.0
            if part is not None and len(part) > 1 and height - inside >= gap:
                groups.append(NeuronGroup(tuple(sorted(part)), float(inside), float(height)))
        small = all(part is not None for part in parts) and sum(map(len, parts)) <= largest
        branches.append(parts[0] | parts[1] if small else None)
    found: list[NeuronGroup] = []
    for group in sorted(groups, key=lambda group: group.inside - group.outside):
        if not any(set(group.channels) & set(other.channels) for other in found):
            found.append(group)
    return found


def classical_scaling(distances: np.ndarray) -> np.ndarray:
    """Return points `[C, 2]` whose distances follow the given ones `[C, C]` (Torgerson 1952), C at least 3.

    Exact where the distances are those of points in a plane. Deterministic: the largest coordinate of each axis is
    positive.
    """
    squared = np.square(distances)
    np.fill_diagonal(squared, 0)
    means = squared.mean(1, keepdims=True)
    centered = -0.5 * (squared - means - means.T + means.mean())
    values, vectors = _two_largest(centered)
    vectors = vectors * np.where(vectors[np.abs(vectors).argmax(0), [0, 1]] < 0, -1, 1)
    return vectors * np.sqrt(np.maximum(values, 0))


def _two_largest(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two largest eigenvalues `[2]`, the larger first, and eigenvectors `[C, 2]` of a symmetric matrix."""
    from scipy.linalg import eigh
    from scipy.sparse.linalg import ArpackError, eigsh

    count = len(matrix)
    if count > DENSE:
        start = np.random.default_rng(0).standard_normal(count)
        try:
            values, vectors = eigsh(matrix, k=2, which="LA", v0=start, tol=1e-3)
            order = np.argsort(-values)
            return values[order], vectors[:, order]
        except ArpackError:
            pass  # all items in one place, or nearly equal eigenvalues: solved below, slowly
    values, vectors = eigh(matrix, subset_by_index=(count - 2, count - 1))
    return values[::-1], vectors[:, ::-1]


def share_members(share: np.ndarray) -> np.ndarray | None:
    """Return the samples `[N]` whose share of relevance is high (Otsu's threshold); None for no real group.

    A real group has at least `MIN_GROUP` samples and leaves as many.
    """
    members = share > otsu_threshold(share)
    return members if MIN_GROUP <= members.sum() <= len(members) - MIN_GROUP else None


def neuron_members(view: ClassView, layer: str, neuron: int) -> np.ndarray | None:
    """Return the samples `[len(view.rows)]` on which a neuron carries much of the relevance; None for no real group."""
    relevances = view.data.store.relevances(layer, view.data.condition, view.rows)
    return share_members(normalize_rows(relevances)[:, neuron])
