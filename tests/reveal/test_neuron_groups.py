from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster
from scipy.spatial.distance import cdist
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.neighbors import LocalOutlierFactor
from tiny import write_store

from pipeline.reveal.neuron_groups import (
    MIN_GROUP,
    classical_scaling,
    mean_silhouette,
    neuron_clusters,
    neuron_members,
    neuron_tree,
    outlier_scores,
    profile_distances,
    share_members,
    small_groups,
)
from pipeline.reveal.view import ClassView, DataView


def points_around(centers: list[tuple[float, float]], sizes: list[int], spread: float = 0.1) -> np.ndarray:
    generator = np.random.default_rng(0)
    return np.concatenate([generator.normal(c, spread, (n, 2)) for c, n in zip(centers, sizes, strict=True)])


def test_profiles_are_0_apart_when_proportional_1_when_orthogonal_and_2_when_opposite():
    profiles = np.array([[1.0, 2.0, 0.0, -3.0, 0.0], [0.0, 0.0, 5.0, 0.0, 0.0]])
    expected = [[0, 0, 1, 2, 1], [0, 0, 1, 2, 1], [1, 1, 0, 1, 1], [2, 2, 1, 0, 1], [1, 1, 1, 1, 1]]
    np.testing.assert_allclose(profile_distances(profiles), expected, atol=1e-12)


def test_distances_in_single_precision_agree_with_scipy():
    profiles = np.random.default_rng(0).standard_normal((400, 30)).astype(np.float32)
    distances = profile_distances(profiles)
    assert distances.dtype == np.float32 and distances.min() >= 0
    np.testing.assert_allclose(distances, cdist(profiles.T, profiles.T, "cosine"), atol=1e-5)


def test_the_score_is_the_mean_distance_to_the_nearest_others_never_to_itself():
    distances = np.array([[0.0, 0.1, 0.5], [0.1, 0.0, 0.7], [0.5, 0.7, 0.0]])
    np.testing.assert_allclose(outlier_scores(distances, 1), [0.1, 0.1, 0.5])
    np.testing.assert_allclose(outlier_scores(distances, 2), [0.3, 0.4, 0.6])
    np.testing.assert_allclose(outlier_scores(distances, 50), outlier_scores(distances, 2))
    assert (np.diag(distances) == 0).all(), "the matrix given is left alone"


def test_duplicates_of_a_neuron_are_neighbours_of_one_another():
    distances = profile_distances(np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    np.testing.assert_allclose(outlier_scores(distances, 1), [0, 0, 1], atol=1e-12)


def test_the_local_outlier_factor_on_distances_is_that_on_points():
    points = points_around([(0, 0), (4, 4)], [30, 1])
    expected = -LocalOutlierFactor(n_neighbors=6).fit(points).negative_outlier_factor_
    scores = outlier_scores(cdist(points, points), 6, "lof")
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    assert scores.argmax() == 30


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_silhouette_is_that_of_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    points = generator.standard_normal((25, 3))
    labels = np.concatenate([[0, 1, 2, 3], generator.integers(0, 3, 21)])  # cluster 3 is a single item
    distances = cdist(points, points)
    assert mean_silhouette(distances, labels) == pytest.approx(
        silhouette_score(distances, labels, metric="precomputed")
    )


@pytest.mark.parametrize("sizes", [[20, 12], [9, 25, 14], [8, 8, 30, 12, 6]])
def test_planted_clusters_are_found_and_the_largest_is_number_0(sizes):
    centers = [(5.0 * n, 3.0 * (n % 2)) for n in range(len(sizes))]
    points = points_around(centers, sizes, 0.4)
    distances = cdist(points, points)
    labels = neuron_clusters(distances, neuron_tree(distances))
    assert adjusted_rand_score(np.repeat(range(len(sizes)), sizes), labels) == 1
    assert (np.diff(np.bincount(labels)) <= 0).all()


def test_the_number_of_clusters_is_the_one_with_the_best_silhouette():
    points = np.random.default_rng(3).standard_normal((40, 2))
    distances = cdist(points, points)
    tree = neuron_tree(distances)
    cuts = [fcluster(tree, number, "maxclust") for number in range(2, 9)]
    best = cuts[int(np.argmax([silhouette_score(distances, cut, metric="precomputed") for cut in cuts]))]
    assert adjusted_rand_score(best, neuron_clusters(distances, tree, most=8)) == 1


def test_indistinguishable_neurons_are_clustered_without_an_error():
    assert neuron_clusters(np.zeros((5, 5)), neuron_tree(np.zeros((5, 5)))).tolist() == [0] * 5


def test_three_neurons_have_two_clusters():
    distances = np.array([[0, 0.1, 1], [0.1, 0, 1], [1, 1, 0.0]])
    assert neuron_clusters(distances, neuron_tree(distances)).tolist() == [0, 0, 1]


def test_a_planted_small_group_is_found_with_its_distances_and_the_mass_is_not():
    points = points_around([(0, 0), (5, 0)], [40, 4])
    distances = cdist(points, points)
    (group,) = small_groups(neuron_tree(distances), 10, 1.0)
    assert group.channels == (40, 41, 42, 43)
    assert group.outside == pytest.approx(distances[:40, 40:].mean())
    assert group.inside < 0.5


def test_a_group_within_a_group_is_reported_once_as_the_farther_one():
    """A pair at 0.1, both 1 from a third, all 9 from ten others: the pair gains 0.9 where it joins, the three 8."""
    points = np.array([[0.0], [0.1], [1.05], *[[9.0 + n / 100] for n in range(10)]])
    distances = cdist(points, points)
    assert [group.channels for group in small_groups(neuron_tree(distances), 5, 0.5)] == [(0, 1, 2)]
    # as all three together are too many, the pair remains
    assert [group.channels for group in small_groups(neuron_tree(distances), 2, 0.5)] == [(0, 1)]


def test_groups_come_with_the_farthest_first_and_only_beyond_the_gap():
    points = points_around([(0, 0), (3, 0), (0, 9)], [30, 3, 3], 0.02)
    tree = neuron_tree(cdist(points, points))
    assert [group.channels for group in small_groups(tree, 5, 0.5)] == [(33, 34, 35), (30, 31, 32)]
    assert [group.channels for group in small_groups(tree, 5, 5)] == [(33, 34, 35)]


def test_a_loose_group_needs_to_stand_off_by_more_than_it_is_wide():
    """Three at 0, 2 and 4, the mass from 7 on: they came together at 3, and join at about 5."""
    points = np.array([[0.0], [2.0], [4.0], *[[7.0 + n / 50] for n in range(10)]])
    tree = neuron_tree(cdist(points, points))
    assert [group.channels for group in small_groups(tree, 5, 1.5)] == [(0, 1, 2)]
    assert small_groups(tree, 5, 2.5) == []


def test_a_group_is_never_more_than_half_of_the_neurons():
    points = points_around([(0, 0), (5, 0)], [3, 5], 0.01)
    assert [group.channels for group in small_groups(neuron_tree(cdist(points, points)), 10, 1.0)] == [(0, 1, 2)]


@pytest.mark.parametrize("count", [3, 30, 130], ids=["three", "dense", "iterative"])
def test_classical_scaling_restores_points_of_a_plane(count):
    points = np.random.default_rng(0).standard_normal((count, 2)) * (3, 1)
    distances = cdist(points, points)
    found = classical_scaling(distances)
    assert found.shape == (count, 2)
    np.testing.assert_allclose(cdist(found, found), distances, atol=1e-3)
    assert np.array_equal(found, classical_scaling(distances))
    assert (found[np.abs(found).argmax(0), [0, 1]] > 0).all()


@pytest.mark.parametrize("count", [4, 130])
def test_scaling_of_equal_items_is_one_point(count):
    np.testing.assert_allclose(classical_scaling(np.zeros((count, count))), 0, atol=1e-9)


@pytest.mark.parametrize(("high", "real"), [(MIN_GROUP - 1, False), (MIN_GROUP, True), (28, True), (29, False)])
def test_a_group_of_samples_has_a_least_size_and_leaves_as_many(high, real):
    share = np.where(np.arange(40) < high, 0.8, 0.01)
    members = share_members(share)
    assert (members is not None) == real
    if real:
        assert np.flatnonzero(members).tolist() == list(range(high))


def test_members_are_the_samples_in_which_the_neuron_has_a_large_share_whatever_the_size_of_the_relevance(tmp_path):
    generator = np.random.default_rng(0)
    relevances = 1 + generator.random((40, 3))
    relevances[25:, 1] = 30
    relevances *= generator.uniform(0.01, 10, (40, 1))
    store = write_store(tmp_path, {"a": relevances.astype(np.float32)})
    data = DataView(store, SimpleNamespace(classes=("x",)), None, np.arange(40))
    members = neuron_members(ClassView(data, 0, np.arange(5, 40)), "a", 1)
    assert np.flatnonzero(members).tolist() == list(range(20, 35))
