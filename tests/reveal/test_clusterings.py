from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_rand_score

from pipeline.config.reveal import SprayConfig
from pipeline.reveal.clusterings import CLUSTERINGS, connected, dbscan, knee, leading
from pipeline.reveal.spectral import Spectrum, conductance, spectrum


def blobs(sizes: list[int], distance: float, dimension: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    return generator.standard_normal((len(truth), dimension)) + distance * np.eye(len(sizes), dimension)[truth], truth


AT_THE_EIGENGAP = [name for name in CLUSTERINGS if name != "sweep"]  # which divides in two


@pytest.fixture(scope="module", params=[5.0, 20.0], ids=["joined", "islands"])
def three(request) -> tuple[Spectrum, np.ndarray]:
    features, truth = blobs([60, 40, 50], request.param)
    return spectrum(features, neighbors=8, eigenvectors=8), truth


def test_the_names_are_those_of_the_configuration():
    assert list(CLUSTERINGS) == list(SprayConfig.model_fields["clustering"].annotation.__args__)


@pytest.mark.parametrize("name", AT_THE_EIGENGAP)
def test_three_planted_clusters_are_found(three, name):
    view, truth = three
    labels = CLUSTERINGS[name](view, 6, 12, 0)[-1]
    assert adjusted_rand_score(truth, labels) > 0.9
    assert set(np.unique(labels)) - {-1} == {0, 1, 2}


@pytest.mark.parametrize("name", CLUSTERINGS)
def test_a_clustering_is_the_same_every_time(three, name):
    first, second = (CLUSTERINGS[name](three[0], 6, 12, 0) for _ in range(2))
    assert len(first) == len(second) and all(map(np.array_equal, first, second))


def test_sweeps_divide_in_two_the_clearest_last(three):
    view, truth = three
    partitions = CLUSTERINGS["sweep"](view, 6, 12, 0)
    assert all(set(np.unique(part)) == {0, 1} for part in partitions)
    leaving = [conductance(view.graph, part == 1) for part in partitions]
    assert leaving[-1] == min(leaving)
    assert max(adjusted_rand_score(truth == number, partitions[-1]) for number in range(3)) > 0.9


def test_without_any_cut_all_samples_are_one():
    view = spectrum(np.random.default_rng(0).standard_normal((20, 3)), neighbors=4, eigenvectors=4)
    assert [part.tolist() for part in CLUSTERINGS["sweep"](view, 6, 11, 0)] == [[0] * 20]


def test_k_means_divides_in_two_and_at_the_eigengap(three):
    counts = [len(np.unique(part)) for part in CLUSTERINGS["kmeans"](three[0], 6, 12, 0)]
    assert counts == [2, 3]
    features, _ = blobs([60, 40], 6.0)
    assert len(CLUSTERINGS["kmeans"](spectrum(features, neighbors=8, eigenvectors=8), 6, 12, 0)) == 1


def test_leading_eigenvectors_are_rows_of_length_1_also_where_all_are_zero():
    embedding = np.array([[0.6, 0.0, 0.8], [0.0, 0.0, 1.0]])
    view = Spectrum(np.zeros(3), embedding, vectors=embedding, graph=sparse.csr_array((2, 2)))
    np.testing.assert_allclose(leading(view, 2), [[1, 0], [0, 0]])


def test_the_knee_is_where_the_curve_turns_up():
    curve = np.concatenate([np.linspace(0, 0.1, 90), np.linspace(0.1, 1, 11)[1:]])
    assert knee(np.random.default_rng(0).permutation(curve)) == pytest.approx(0.1)


@pytest.mark.parametrize("eps", [0.6, 0.9, 1.3])
@pytest.mark.parametrize("dense", [5, 12])
def test_dbscan_is_that_of_scikit_learn(eps, dense):
    points, _ = blobs([120, 80], 5.0, dimension=2)
    points = np.concatenate([points, np.random.default_rng(1).uniform(-8, 12, (40, 2))])
    expected = DBSCAN(eps=eps, min_samples=dense).fit_predict(points)
    found = dbscan(points, dense, eps)
    assert np.array_equal(found == -1, expected == -1)
    assert adjusted_rand_score(expected, found) > 0.99


def test_a_point_that_is_not_dense_joins_no_two_clusters():
    """It lies within the radius of two points of either side, and a dense point needs seven others."""
    line = np.linspace(0, 0.09, 10)
    points = np.concatenate([line, 2 - line, [1.0]])[:, None]
    labels = dbscan(points, 8, 0.925)
    assert labels[:20].tolist() == [0] * 10 + [1] * 10
    assert labels[20] in (0, 1)


def test_dbscan_chooses_its_radius_and_leaves_out_what_is_alone():
    points, truth = blobs([100, 80], 30.0, dimension=2)
    points = np.concatenate([points, [[100.0, 0.0], [0.0, 100.0]]])
    labels = dbscan(points, 10)
    assert (labels[-2:] == -1).all()
    assert adjusted_rand_score(truth, labels[:-2]) > 0.9


def test_the_chosen_radius_does_not_tell_apart_what_is_as_good_as_equal():
    points = np.repeat([[1.0, 0.0], [0.9995, 0.03], [0.0, 1.0]], 8, axis=0)
    assert dbscan(points, 6).tolist() == [0] * 16 + [1] * 8


def test_samples_at_one_place_are_one_cluster_of_dbscan_however_many():
    points = np.repeat(np.eye(3), [300, 50, 4], axis=0)
    assert dbscan(points, 6).tolist() == [0] * 300 + [1] * 50 + [-1] * 4
    shaken = points + np.clip(1e-6 * np.random.default_rng(0).standard_cauchy(points.shape), -0.005, 0.005)
    assert dbscan(shaken, 6).tolist() == [0] * 300 + [1] * 50 + [-1] * 4


def test_islands_are_linked_to_the_nearest_by_their_most_central_samples():
    points = np.array([[0.0], [1.0], [2.0], [10.0], [11.5], [12.0], [100.0], [101.0]])
    pairs = [(0, 1), (1, 2), (3, 4), (4, 5), (6, 7)]
    graph = np.zeros((8, 8))
    for a, b in pairs:
        graph[a, b] = graph[b, a] = 1
    found = connected(sparse.csr_array(graph), points).toarray()
    assert connected_components(found)[0] == 1
    assert np.array_equal(found, found.T)
    new = {tuple(pair) for pair in np.argwhere(np.triu((found > 0) & (graph == 0)))}
    assert new == {(1, 4), (4, 6)}


def test_a_graph_in_one_piece_stays_as_it_is():
    graph = sparse.csr_array(1 - np.eye(4))
    assert connected(graph, np.eye(4)) is graph
