"""Sweep cuts: the groups that a neighbour graph sets apart most clearly (Cheeger; Shi and Malik 2000)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from .candidates import jaccard

SAME = 0.5


@dataclass(frozen=True)
class Cut:
    """A division of the samples in two.

    Attributes:
        conductance: share of the smaller side's edges that leave it; 0 = an island.
        members: booleans `[N]`, one of the two sides.
    """

    conductance: float
    members: np.ndarray


def sweep_cuts(graph: sparse.csr_array, vectors: np.ndarray, smallest: int) -> list[Cut]:
    """Return for every eigenvector the cut of least conductance along it, the clearest first, each division once.

    Samples are sorted by the eigenvector divided by the root of their degree, and cut where it costs least. Unlike
    k-means, which also divides what has no gap into parts of equal size, this finds small groups whole.

    Args:
        graph: symmetric neighbour graph `[N, N]`.
        vectors: eigenvectors `[N, k]` of its normalised Laplacian.
        smallest: least samples on either side; with fewer than twice as many samples there is no cut.
    """
    count = graph.shape[0]
    if count < 2 * smallest:
        return []
    degrees = np.asarray(graph.sum(1)).ravel()
    edges = sparse.triu(graph, 1).tocoo()
    cuts = [_best_cut(edges, degrees, vector / np.sqrt(np.maximum(degrees, 1e-12)), smallest) for vector in vectors.T]
    distinct: list[Cut] = []
    for cut in sorted(cuts, key=lambda each: each.conductance):
        if all(_same_division(cut.members, other.members) < SAME for other in distinct):
            distinct.append(cut)
    return distinct


def _best_cut(edges: sparse.coo_array, degrees: np.ndarray, values: np.ndarray, smallest: int) -> Cut:
    count = len(values)
    order = np.argsort(-values, kind="stable")
    rank = np.empty(count, dtype=np.int64)
    rank[order] = np.arange(count)
    first, last = np.minimum(rank[edges.row], rank[edges.col]), np.maximum(rank[edges.row], rank[edges.col])
    # an edge is cut by every division between its two ends
    crossing = np.cumsum(
        np.bincount(first, edges.data, minlength=count) - np.bincount(last, edges.data, minlength=count)
    )
    inside = np.cumsum(degrees[order])
    conductances = crossing / np.maximum(np.minimum(inside, inside[-1] - inside), 1e-12)
    allowed = np.arange(smallest - 1, count - smallest)
    at = int(allowed[np.argmin(conductances[allowed])])
    members = np.zeros(count, bool)
    members[order[: at + 1]] = True
    return Cut(max(0.0, float(conductances[at])), members)


def _same_division(a: np.ndarray, b: np.ndarray) -> float:
    return max(jaccard(a, b), jaccard(a, ~b))
