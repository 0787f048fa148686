from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from pipeline.errors import DataError
from pipeline.reveal import neighbors as module
from pipeline.reveal.neighbors import approximate_neighbors, exact_neighbors, nearest_neighbors


def random(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)


def true_distances(features: np.ndarray) -> np.ndarray:
    distances = np.linalg.norm(features[:, None].astype(np.float64) - features[None].astype(np.float64), axis=2)
    np.fill_diagonal(distances, np.inf)
    return distances


@pytest.mark.parametrize(("count", "tile"), [(50, 2048), (700, 2048), (700, 64), (333, 96), (2, 2048), (33, 32)])
def test_neighbours_are_those_of_scikit_learn_whatever_the_tiles(count, tile, monkeypatch):
    monkeypatch.setattr(module, "TILE", tile)
    features = random(count, 7)
    found = exact_neighbors(features, min(9, count - 1))
    distances, indices = NearestNeighbors(n_neighbors=min(9, count - 1)).fit(features).kneighbors()
    assert np.array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-5)
    assert found.recall == 1


def test_neighbours_in_wide_tiles_are_those_of_scikit_learn():
    """So wide that most columns are passed only once."""
    features = random(3500, 5)
    found = exact_neighbors(features, 2)
    assert np.array_equal(found.indices, NearestNeighbors(n_neighbors=2).fit(features).kneighbors()[1])


@pytest.mark.parametrize("copies", [2, 9, 40])
def test_identical_rows_cost_no_neighbour_and_nobody_is_its_own(copies):
    features = np.repeat(random(12, 5), copies, axis=0)
    found = exact_neighbors(features, 8)
    assert not (found.indices == np.arange(len(features))[:, None]).any()
    assert all(len(set(row)) == 8 for row in found.indices.tolist())
    np.testing.assert_allclose(found.distances, np.sort(true_distances(features))[:, :8], atol=1e-6)


def test_an_offset_of_all_rows_changes_nothing():
    features = random(300, 6)
    features = np.float32(np.round(features * 64) / 64)  # so that adding and taking away are exact
    assert np.array_equal(exact_neighbors(features + 4096, 6).indices, exact_neighbors(features, 6).indices)


@pytest.mark.parametrize("spread", [1e-3, 1e-5])
def test_nearly_identical_rows_far_from_the_rest_keep_their_order(spread):
    """|x|^2 - 2xy + |y|^2 in single precision holds nothing of such distances."""
    tight = 100 * random(4, 16, 1)[:, None] + spread * random(4 * 60, 16).reshape(4, 60, 16)
    features = np.concatenate([tight.reshape(-1, 16), random(100, 16, 2)]).astype(np.float32)
    found = exact_neighbors(features, 5)
    np.testing.assert_allclose(found.distances, np.sort(true_distances(features))[:, :5], rtol=1e-3, atol=1e-9)


def test_neighbours_are_at_most_all_others():
    found = nearest_neighbors(np.eye(4), 10)
    assert [sorted(row) for row in found.indices.tolist()] == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    np.testing.assert_allclose(found.distances, 2**0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.ones((1, 3)), "at least 2 samples, there are 1"),
        (np.array([[0.0], [np.nan], [np.inf]]), "2 samples .* row 1"),
    ],
)
def test_what_has_no_neighbours_is_refused(features, message):
    with pytest.raises(DataError, match=message):
        nearest_neighbors(features, 2)


class WrongSearch:
    """Stands in for NN-descent: the true neighbours with the row itself in second place, and planted mistakes."""

    wrong_rows = 0
    unfound = False
    without_itself = False

    def __init__(self, features: np.ndarray, n_neighbors: int, **_settings):
        order = np.argsort(true_distances(features), axis=1)[:, : n_neighbors - 1]
        itself = np.arange(len(features))[:, None]
        found = np.concatenate([order[:, :1], itself, order[:, 1:]], axis=1)
        if self.without_itself:
            found = np.argsort(true_distances(features), axis=1)[:, :n_neighbors]
        far = np.argsort(true_distances(features), axis=1)[:, -1 - n_neighbors : -1]
        found[: self.wrong_rows] = far[: self.wrong_rows]
        if self.unfound:
            found[0, 2:] = -1
        self.neighbor_graph = (found, None)


def approximate(monkeypatch, features: np.ndarray, **planted):
    search = type("Planted", (WrongSearch,), planted)
    monkeypatch.setitem(sys.modules, "pynndescent", SimpleNamespace(NNDescent=search))
    return approximate_neighbors(features, 5)


@pytest.mark.parametrize("planted", [{}, {"without_itself": True}, {"unfound": True}])
def test_what_the_approximate_search_returns_is_put_in_order_and_completed(planted, monkeypatch):
    features = random(120, 4)
    found = approximate(monkeypatch, features, **planted)
    assert np.array_equal(found.indices, exact_neighbors(features, 5).indices)
    assert found.recall == 1


def test_recall_is_the_share_of_true_neighbours(monkeypatch):
    found = approximate(monkeypatch, random(200, 4), wrong_rows=50)
    assert found.recall == pytest.approx(0.75)


def test_recall_is_estimated_on_a_sample(monkeypatch):
    monkeypatch.setattr(module, "SAMPLED_ROWS", 80)
    found = approximate(monkeypatch, random(200, 4), wrong_rows=100)
    assert 0.35 < found.recall < 0.65 and (found.recall * 80) % 1 == pytest.approx(0, abs=1e-5)


def test_only_more_rows_than_told_are_searched_approximately(monkeypatch):
    called = []
    monkeypatch.setattr(module, "approximate_neighbors", lambda *given: called.append(given[1:]))
    nearest_neighbors(random(60, 3), 4, exact_up_to=60, seed=3)
    assert not called
    nearest_neighbors(random(61, 3), 4, exact_up_to=60, seed=3)
    assert called == [(4, 3)]


@pytest.mark.slow
def test_nn_descent_finds_most_neighbours_the_same_way_every_time():
    features = random(2000, 6)
    first, second = (approximate_neighbors(features, 8, seed=1) for _ in range(2))
    assert np.array_equal(first.indices, second.indices)
    assert first.recall > 0.95
    assert not (first.indices == np.arange(2000)[:, None]).any()
