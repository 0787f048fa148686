from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from pipeline.reveal.spectral import conductance, eigenvectors_of, neighbor_graph
from pipeline.reveal.sweeps import sweep_cuts


def clouds(*sizes: int, dimensions: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian clouds far from each other, and who belongs to which."""
    generator = np.random.default_rng(seed)
    centers = 30 * np.eye(len(sizes), dimensions)
    points = [
        generator.standard_normal((size, dimensions)) + center for size, center in zip(sizes, centers, strict=True)
    ]
    return np.concatenate(points).astype(np.float32), np.repeat(np.arange(len(sizes)), sizes)


def cuts_of(features: np.ndarray, smallest: int = 10):
    graph = neighbor_graph(features, 6)
    _, vectors = eigenvectors_of(graph, 8)
    return graph, sweep_cuts(graph, vectors, smallest)


def test_a_small_island_is_found_whole_and_first():
    features, cloud = clouds(200, 15)
    graph, cuts = cuts_of(features)
    island = cuts[0].members if cuts[0].members.sum() < 100 else ~cuts[0].members
    assert np.array_equal(island, cloud == 1)
    assert cuts[0].conductance == 0


def test_the_conductance_of_every_cut_is_that_of_its_members():
    generator = np.random.default_rng(1)
    graph, cuts = cuts_of(generator.standard_normal((120, 4)).astype(np.float32))
    assert len(cuts) >= 2
    for cut in cuts:
        assert cut.conductance == pytest.approx(conductance(graph, cut.members), abs=1e-9)


def test_no_other_place_along_the_eigenvector_costs_less():
    generator = np.random.default_rng(2)
    graph = neighbor_graph(generator.standard_normal((60, 3)).astype(np.float32), 5)
    _, vectors = eigenvectors_of(graph, 2)
    vector = vectors[:, 1:]
    (cut,) = sweep_cuts(graph, vector, 8)
    degrees = np.asarray(graph.sum(1)).ravel()
    order = np.argsort(-vector[:, 0] / np.sqrt(degrees), kind="stable")
    tried = []
    for size in range(8, 53):
        members = np.zeros(60, bool)
        members[order[:size]] = True
        tried.append(conductance(graph, members))
    assert cut.conductance == pytest.approx(min(tried), abs=1e-9)


def test_neither_side_is_smaller_than_allowed():
    features, _ = clouds(100, 9)
    _, cuts = cuts_of(features, smallest=12)
    assert all(12 <= cut.members.sum() <= 109 - 12 for cut in cuts)


def test_cuts_are_sorted_and_no_division_is_told_twice():
    features, _ = clouds(60, 40, 30)
    _, cuts = cuts_of(features)
    found = [cut.conductance for cut in cuts]
    assert found == sorted(found)
    sides = [cut.members if cut.members[0] else ~cut.members for cut in cuts]
    for number, one in enumerate(sides):
        for other in sides[number + 1 :]:
            assert (one & other).sum() / (one | other).sum() < 0.99


def test_too_few_samples_give_no_cut():
    graph = sparse.csr_array(np.ones((5, 5)) - np.eye(5))
    assert sweep_cuts(graph, np.eye(5), 3) == []
