from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.sparse.linalg
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from pipeline.errors import DataError
from pipeline.reveal import spectral
from pipeline.reveal.clusterings import cluster
from pipeline.reveal.spaces import normalize_rows
from pipeline.reveal.spectral import choose_clusters, conductance, eigenvectors_of, neighbor_graph, spectrum


def blobs(sizes: list[int], distance: float, dimension: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    centers = distance * np.eye(len(sizes), dimension)
    return generator.standard_normal((len(truth), dimension)) + centers[truth], truth


def dense_laplacian(graph: sparse.csr_array) -> np.ndarray:
    adjacency = graph.toarray()
    degree = adjacency.sum(1)
    return np.eye(len(degree)) - adjacency / np.sqrt(degree[:, None] * degree[None])


@pytest.mark.parametrize(("sizes", "distance"), [([60, 40], 12.0), ([90, 20], 12.0), ([50, 50], 6.0)])
def test_two_planted_clusters_are_found_exactly(sizes, distance):
    features, truth = blobs(sizes, distance)
    view = spectrum(features, neighbors=8, eigenvectors=8)
    assert choose_clusters(view.eigenvalues, 6) == 2
    assert adjusted_rand_score(truth, cluster(view, 2, 0)) == 1


def test_three_planted_clusters_are_counted_and_found():
    features, truth = blobs([40, 30, 50], 10.0)
    view = spectrum(features, neighbors=8, eigenvectors=8)
    assert choose_clusters(view.eigenvalues, 6) == 3
    assert adjusted_rand_score(truth, cluster(view, 3, 0)) == 1


@pytest.mark.parametrize(
    "features",
    [
        np.random.default_rng(0).standard_normal((40, 3)),
        np.repeat(np.random.default_rng(0).standard_normal((4, 3)), 10, axis=0),
        np.zeros((20, 3)),
    ],
    ids=["distinct", "duplicates", "all equal"],
)
def test_the_graph_is_symmetric_without_self_loops_and_everybody_has_neighbours(features):
    graph = neighbor_graph(features, 5)
    assert (graph != graph.T).nnz == 0
    assert not graph.diagonal().any()
    assert set(np.unique(graph.data)) <= {0.5, 1.0}
    assert graph.sum() == pytest.approx(5 * len(features))
    assert np.asarray(graph.sum(1)).min() >= 2.5


def test_edges_lead_to_the_nearest():
    features = np.random.default_rng(0).standard_normal((30, 4))
    distances = np.linalg.norm(features[:, None] - features[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    chosen = np.zeros((30, 30))
    np.put_along_axis(chosen, np.argsort(distances, axis=1)[:, :5], 1.0, axis=1)
    assert np.array_equal(neighbor_graph(features, 5).toarray(), (chosen + chosen.T) / 2)


def test_neighbours_are_at_most_all_others():
    assert np.array_equal(neighbor_graph(np.eye(4), 10).toarray(), 1 - np.eye(4))


@pytest.mark.parametrize("dense", [0, 500], ids=["iterative", "dense"])
@pytest.mark.parametrize(
    "features",
    [blobs([40], 0.0)[0], blobs([25, 20], 4.0)[0], blobs([20, 20, 20], 50.0)[0], np.repeat(np.eye(5), 9, axis=0)],
    ids=["one group", "two groups", "three islands", "duplicates"],
)
def test_eigenvalues_are_those_of_the_dense_laplacian_and_lie_between_0_and_2(features, dense, monkeypatch):
    monkeypatch.setattr(spectral, "DENSE", max(dense, 17))  # the iterative solver needs more rows than eigenvectors
    view = spectrum(features, neighbors=6, eigenvectors=10)
    expected = np.linalg.eigvalsh(dense_laplacian(view.graph))
    np.testing.assert_allclose(view.eigenvalues, expected[:10], atol=1e-6)
    assert view.eigenvalues.min() >= 0 and view.eigenvalues.max() <= 2


@pytest.fixture
def hesitant(monkeypatch):
    """Return a function that lets the iterative solver give up so many times; it returns the sizes of its bases."""
    eigsh = scipy.sparse.linalg.eigsh
    monkeypatch.setattr(spectral, "DENSE", 17)

    def give_up(times: int) -> list[int]:
        sizes = []

        def solve(*given, ncv: int, **settings):
            sizes.append(ncv)
            if len(sizes) <= times:
                raise scipy.sparse.linalg.ArpackNoConvergence("no convergence", np.empty(0), np.empty((0, 0)))
            return eigsh(*given, ncv=ncv, **settings)

        monkeypatch.setattr("scipy.sparse.linalg.eigsh", solve)
        return sizes

    return give_up


@pytest.mark.parametrize("times", [0, 1, 2])
def test_where_the_iterative_solver_gives_up_it_gets_a_larger_basis(times, hesitant):
    sizes = hesitant(times)
    view = spectrum(blobs([120], 0.0)[0], neighbors=6, eigenvectors=10)
    np.testing.assert_allclose(view.eigenvalues, np.linalg.eigvalsh(dense_laplacian(view.graph))[:10], atol=1e-6)
    assert len(sizes) == times + 1 and sizes == sorted(set(sizes))


def test_where_it_gives_up_for_good_the_error_says_what_to_change(hesitant):
    hesitant(99)
    with pytest.raises(DataError, match="10 leading eigenvectors .* 120 samples .* Change 'eigenvectors'"):
        spectrum(blobs([120], 0.0)[0], neighbors=6, eigenvectors=10)


def ring_of_groups(groups: int, size: int) -> sparse.csr_array:
    """Groups of random neighbours, each joined to the next by a single edge."""
    features = np.random.default_rng(0).standard_normal((groups, size, 4))
    adjacency = sparse.block_diag([neighbor_graph(each, 6) for each in features]).tolil()
    for number in range(groups):
        ends = number * size, (number + 1) % groups * size + 1
        adjacency[ends] = adjacency[ends[::-1]] = 0.5
    return sparse.csr_array(adjacency.tocsr())


def test_nearly_equal_eigenvalues_are_all_found_by_the_iterative_solver():
    graph = ring_of_groups(8, 100)
    values, vectors = eigenvectors_of(graph, 12)
    laplacian = dense_laplacian(graph)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(laplacian)[:12], atol=1e-5)
    assert (values < 0.02).sum() == 8
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(12), atol=1e-8)
    assert np.abs(laplacian @ vectors - vectors * values).max() < 1e-3
    by_place = vectors[:, :8] / np.linalg.norm(vectors[:, :8], axis=1, keepdims=True)
    groups = KMeans(8, n_init=10, random_state=0).fit_predict(by_place)
    assert adjusted_rand_score(np.repeat(np.arange(8), 100), groups) > 0.99


def test_of_more_islands_than_eigenvectors_the_largest_have_one_each():
    sizes = [9, 30, 7, 25, 8, 20]
    graph = sparse.csr_array(sparse.block_diag([1 - np.eye(size) for size in sizes]))
    values, vectors = eigenvectors_of(graph, 3)
    np.testing.assert_allclose(values, 0, atol=1e-12)
    inside = np.repeat(np.arange(6), sizes)
    for column, island in enumerate((1, 3, 5)):
        np.testing.assert_allclose(np.abs(vectors[:, column]), (inside == island) / sizes[island] ** 0.5, atol=1e-9)


def test_thousands_of_islands_need_no_more_than_the_largest(monkeypatch):
    solved = []
    solve = spectral._largest_of_island
    monkeypatch.setattr(spectral, "_largest_of_island", lambda *given: solved.append(given) or solve(*given))
    pairs = sparse.csr_array(sparse.kron(sparse.eye_array(3000), 1 - np.eye(2)))
    values, vectors = eigenvectors_of(pairs, 5)
    assert len(solved) == 5 and vectors.shape == (6000, 5)
    np.testing.assert_allclose(values, 0, atol=1e-12)


def test_the_recall_of_an_approximate_graph_is_told(monkeypatch):
    exact = spectral.nearest_neighbors

    def search(features, neighbors, *, exact_up_to, seed):
        found = exact(features, neighbors)
        return dataclasses.replace(found, recall=0.5 if len(features) > exact_up_to and seed == 7 else 1.0)

    monkeypatch.setattr(spectral, "nearest_neighbors", search)
    features, _ = blobs([30], 0.0)
    settings = {"neighbors": 4, "eigenvectors": 4, "seed": 7}
    assert spectrum(features, **settings).recall == 1
    assert spectrum(features, **settings, exact_up_to=29).recall == 0.5


def test_islands_have_one_zero_eigenvalue_each():
    view = spectrum(blobs([20, 20, 20, 20], 80.0)[0], neighbors=5, eigenvectors=8)
    assert (view.eigenvalues < 1e-9).sum() == 4


def test_the_embedding_has_rows_of_length_one_and_is_deterministic():
    features, _ = blobs([30, 40], 5.0)
    views = [spectrum(features, neighbors=8, eigenvectors=16) for _ in range(2)]
    assert np.array_equal(views[0].embedding, views[1].embedding)
    assert np.array_equal(cluster(views[0], 2, 3), cluster(views[1], 2, 3))
    np.testing.assert_allclose(np.linalg.norm(views[0].embedding, axis=1), 1)
    assert views[0].embedding.shape == (70, 16)


def test_a_small_class_has_a_small_embedding():
    assert spectrum(np.random.default_rng(0).standard_normal((6, 3)), neighbors=8, eigenvectors=16).embedding.shape == (
        6,
        4,
    )


def test_scaling_a_sample_changes_nothing():
    features = np.random.default_rng(0).standard_normal((20, 4, 5))
    scaled = features * np.geomspace(1e-6, 1e6, 20)[:, None, None]
    np.testing.assert_allclose(normalize_rows(scaled), normalize_rows(features), rtol=1e-5)
    np.testing.assert_allclose(np.abs(normalize_rows(features)).sum(1), 1, rtol=1e-5)
    assert not normalize_rows(np.zeros((2, 3))).any()


@pytest.mark.parametrize(
    ("eigenvalues", "most", "expected"),
    [
        ([0, 0.01, 0.9, 0.95], 6, 2),
        ([0, 0.01, 0.02, 0.5, 0.6], 6, 3),
        ([0, 0.8, 0.9, 0.95], 6, 2),
        ([0, 0.1, 0.2, 0.3, 0.9, 0.95], 3, 2),
        ([0, 0.5], 6, 2),
    ],
    ids=["two", "three", "never one", "at most", "two eigenvalues"],
)
def test_the_number_of_clusters_stands_at_the_largest_gap(eigenvalues, most, expected):
    found = choose_clusters(np.array(eigenvalues, float), most)
    assert found == expected if expected != 2 or most != 3 else found <= 3


def two_cliques(first: int, second: int) -> sparse.csr_array:
    adjacency = np.zeros((first + second, first + second))
    adjacency[:first, :first] = adjacency[first:, first:] = 1
    np.fill_diagonal(adjacency, 0)
    adjacency[0, -1] = adjacency[-1, 0] = 1
    return sparse.csr_array(adjacency)


@pytest.mark.parametrize(("first", "second"), [(4, 4), (3, 7), (10, 5)])
def test_conductance_of_a_clique_joined_by_one_edge(first, second):
    """The smaller clique of k nodes has k (k - 1) + 1 ends of edges, of which one leaves."""
    members = np.arange(first + second) < first
    smaller = min(first, second)
    expected = 1 / (smaller * (smaller - 1) + 1)
    assert conductance(two_cliques(first, second), members) == pytest.approx(expected)
    assert conductance(two_cliques(first, second), ~members) == pytest.approx(expected)


def test_conductance_of_an_island_is_0_and_of_an_alternating_ring_1():
    ring = sparse.csr_array(np.roll(np.eye(10), 1, axis=1) + np.roll(np.eye(10), -1, axis=1))
    assert conductance(ring, np.arange(10) % 2 == 0) == 1
    assert conductance(ring, np.arange(10) < 5) == pytest.approx(2 / 10)
    islands = sparse.block_diag([np.ones((3, 3)) - np.eye(3)] * 2, format="csr")
    assert conductance(sparse.csr_array(islands), np.arange(6) < 3) == 0
