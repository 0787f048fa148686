from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from tiny import write_store

from pipeline.config.reveal import SprayConfig
from pipeline.errors import ConfigError
from pipeline.reveal import spray as module
from pipeline.reveal.candidates import Candidate, jaccard
from pipeline.reveal.clusterings import CLUSTERINGS
from pipeline.reveal.spaces import pool_to_grid
from pipeline.reveal.spray import Spray, spray
from pipeline.reveal.view import DataView

COUNT, PLANTED = 60, 20


def planted_heatmaps() -> np.ndarray:
    """Heatmaps 20 x 20 of noise; the first 20 have their relevance in one corner."""
    heatmaps = np.random.default_rng(0).standard_normal((COUNT, 20, 20)) * 0.1
    heatmaps[:PLANTED, :5, :5] += 1.0
    return heatmaps.astype(np.float16)


@pytest.fixture
def view(tmp_path) -> DataView:
    """Layer "deep" has a planted group of the last 30, the others do not; heatmaps have one of the first 20."""
    return make_view(tmp_path, planted_layers(), np.zeros(COUNT, int), planted_heatmaps())


def planted_layers() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    layers = {name: generator.standard_normal((COUNT, 8)).astype(np.float32) for name in ("a", "b", "deep")}
    layers["deep"][30:, 0] += 20.0
    return layers


def make_view(folder, layers, labels: np.ndarray, heatmaps: np.ndarray | None = None) -> DataView:
    store = write_store(folder, layers, heatmaps)
    store.__dict__["labels"] = labels  # the store that tests write has one class
    dataset = SimpleNamespace(classes=tuple("xyz"[: labels.max() + 1]))
    return DataView(store, dataset, None, np.arange(len(labels)))


def restricted(view: DataView, rows: np.ndarray) -> DataView:
    return view.restricted(rows, 0)


def detector(**settings) -> Spray:
    return Spray(SprayConfig(kind="spray", **{"quantities": ["relevance"]} | settings))


def detect(view: DataView, **settings) -> list[Candidate]:
    return detector(**settings).detect(view).candidates


def test_a_planted_group_is_found_in_the_heatmaps():
    result = spray(planted_heatmaps(), neighbors=8)
    planted = np.arange(COUNT) < PLANTED
    assert any(np.array_equal(group, planted) for group in result.groups)
    assert any(np.array_equal(group, ~planted) for group in result.groups)


@pytest.mark.parametrize("clustering", CLUSTERINGS)
def test_a_planted_group_is_found_by_every_clustering(view, clustering):
    found = detect(view, spaces=["deep"], clustering=clustering)
    assert any(jaccard(each.members, np.arange(COUNT) >= 30) > 0.8 for each in found)


def test_noise_is_no_group():
    """Two tight groups, and samples that are like no other."""
    generator = np.random.default_rng(0)
    features = np.concatenate([np.repeat(np.eye(2, 40), 40, axis=0), np.zeros((15, 40))])
    features += generator.standard_normal(features.shape) * np.repeat([0.02, 1.0], [80, 15])[:, None]
    result = spray(features, neighbors=8, clustering="hdbscan", normalization="l2")
    alone = result.labels == -1
    assert alone.any()
    assert not any(np.array_equal(group, alone) for group in result.clusters)
    assert len(result.clusters) == len(np.unique(result.labels[~alone]))


def test_of_three_groups_each_is_proposed_and_also_all_but_it():
    features = np.repeat(np.eye(3, 12), 30, axis=0) + 0.02 * np.random.default_rng(0).standard_normal((90, 12))
    groups = {group.tobytes() for group in spray(features, neighbors=8, clustering="kmeans").groups}
    for number in range(3):
        planted = np.arange(90) // 30 == number
        assert {planted.tobytes(), (~planted).tobytes()} <= groups


def test_whatever_is_configured_reaches_the_analysis(view, monkeypatch):
    given = {}
    monkeypatch.setattr(module, "spray", lambda features, **settings: given.update(settings, shape=features.shape))
    settings = {
        "neighbors": 5, "eigenvectors": 9, "max_clusters": 4, "min_cluster_size": 7, "normalization": "l2",
        "clustering": "dbscan", "exact_up_to": 99,
    }  # fmt: skip
    seeded = view.restricted(view.rows, 3)
    detector(**settings, grid=4).analyse(next(seeded.classes()), "input")
    assert given == settings | {"seed": 3, "shape": (COUNT, 16)}


@pytest.mark.parametrize(("normalization", "split_by_size"), [("l1", False), ("l2", False), ("none", True)])
def test_the_size_of_a_sample_counts_only_without_normalization(normalization, split_by_size):
    features = np.abs(np.random.default_rng(0).standard_normal((60, 5))) * 0.1 + 1
    features[30:] *= 40
    result = spray(features, neighbors=6, normalization=normalization)
    by_size = np.arange(60) >= 30
    assert any(np.array_equal(group, by_size) for group in result.groups) == split_by_size


def test_groups_of_every_space_are_candidates(view):
    found = detect(view, spaces=["heatmap", "deep"], grid=5)
    memberships = {(each.layer, tuple(np.flatnonzero(each.members))) for each in found}
    assert ("input", tuple(range(PLANTED))) in memberships
    assert ("deep", tuple(range(30, COUNT))) in memberships
    assert all(each.detector == "spray" and each.class_id == 0 for each in found)


def test_the_note_says_how_far_a_group_stands_apart(view):
    (planted,) = [
        each for each in detect(view, spaces=["deep"]) if np.array_equal(each.members, np.arange(COUNT) >= 30)
    ]
    graph = detector().analyse(next(view.classes()), "deep").view.graph.toarray()
    leaving = graph[30:, :30].sum() / graph[30:].sum()
    assert 0 < leaving < 0.01
    assert planted.note == f"30 of 60 samples; {leaving:.1%} of their links in the neighbour graph leave them."


def test_the_figures_behind_the_groups_are_kept(view):
    seen = detector(spaces=["heatmap", "deep"], quantities=["relevance", "activation_max"], eigenvectors=7)
    arrays = seen.detect(restricted(view, np.arange(2, COUNT))).arrays
    places = {"0/input/relevance", "0/deep/relevance", "0/deep/activation_max"}
    assert {name.rsplit("/", 1)[0] for name in arrays} == places
    assert np.array_equal(arrays["0/deep/relevance/rows"], np.arange(2, COUNT))
    assert arrays["0/deep/relevance/eigenvalues"].shape == (7,) and arrays["0/deep/relevance/eigenvalues"][1] < 0.05
    assert arrays["0/deep/relevance/embedding"].shape == (COUNT - 2, 7)
    assert (
        len(np.unique(arrays["0/deep/relevance/labels"][:28])) == 1
        and len(arrays["0/deep/relevance/labels"]) == COUNT - 2
    )
    assert arrays["0/deep/relevance/recall"] == 1


def test_groups_are_reported_once_and_have_the_least_size_on_both_sides(view):
    found = detect(view, spaces=["heatmap", "latent"], min_cluster_size=15)
    keys = [(each.layer, each.members.tobytes()) for each in found]
    assert found and len(keys) == len(set(keys))
    assert all(15 <= each.members.sum() <= COUNT - 15 for each in found)


def test_latent_means_the_deep_layers_and_a_space_named_twice_counts_once(view):
    layers = {each.layer for each in detect(view, spaces=["latent"])}
    assert layers <= {"deep", "b"} and "deep" in layers
    once, twice = detect(view, spaces=["deep", "heatmap"]), detect(view, spaces=["deep", "heatmap", "deep", "heatmap"])
    assert len(once) == len(twice)
    assert len(detect(view, spaces=["latent"])) == len(detect(view, spaces=["latent", "deep", "b"]))


@pytest.mark.parametrize("scope", ["class", "all"])
def test_a_class_that_is_too_small_for_two_groups_has_nothing(view, scope):
    small = restricted(view, np.arange(23))
    found = detector(min_cluster_size=12, scope=scope).detect(small)
    assert found.candidates == [] and found.arrays == {}
    assert detector(min_cluster_size=12).analyse(next(small.classes()), "input") is None


def test_rows_outside_the_view_are_not_looked_at(view):
    rows = np.arange(10, COUNT)
    found = detect(restricted(view, rows), spaces=["deep"])
    assert any(np.array_equal(each.member_rows, np.arange(30, COUNT)) for each in found)
    assert all(len(each.members) == len(rows) for each in found)


@pytest.fixture
def three_classes(tmp_path) -> DataView:
    """Classes 0, 1, 2 in turns, 60 samples each, in places of their own; 20 of class 1 and 3 of class 0 share one."""
    labels = np.arange(180) % 3
    features = np.abs(np.random.default_rng(0).standard_normal((180, 8))) * 0.05
    features[np.arange(180), labels] += 1
    features[shared_rows()] = np.abs(np.random.default_rng(1).standard_normal((23, 8))) * 0.05 + np.eye(8)[5]
    return make_view(tmp_path, {"deep": features.astype(np.float32)}, labels)


def shared_rows() -> np.ndarray:
    return np.sort(np.concatenate([np.arange(1, 61, 3), [0, 3, 6]]))


def test_of_all_classes_at_once_a_cluster_belongs_to_the_class_of_most_members(three_classes):
    result = detector(spaces=["deep"], scope="all", min_cluster_size=10, clustering="kmeans").detect(three_classes)
    (found,) = [each for each in result.candidates if each.members.sum() == 20]
    assert found.class_id == 1
    assert np.array_equal(found.rows, np.arange(1, 180, 3))
    assert np.array_equal(found.member_rows, np.arange(1, 61, 3))
    assert found.note == "20 of 60 samples of the class are in a cluster of 23 samples among all classes."
    assert all(10 <= each.members.sum() <= len(each.members) - 10 for each in result.candidates)
    assert np.array_equal(result.arrays["all/deep/relevance/rows"], np.arange(180))
    assert len(np.unique(result.arrays["all/deep/relevance/labels"][shared_rows()])) == 1


def test_of_all_classes_at_once_there_may_be_most_clusters_for_each_class(three_classes):
    found = detector(spaces=["deep"], scope="all", max_clusters=2, clustering="kmeans").analyse_all(
        three_classes, "deep"
    )
    assert len(np.unique(found.labels)) == 4


def test_an_unknown_space_is_refused_with_the_nearest_and_all_allowed_ones(view):
    with pytest.raises(ConfigError, match="'heatmaps'. Did you mean 'heatmap'.* Allowed: heatmap, latent, .*b, deep"):
        detect(view, spaces=["heatmaps"])


def test_heatmaps_are_averaged_over_the_cells_of_a_grid():
    heatmaps = np.arange(36, dtype=np.float32).reshape(1, 6, 6)
    expected = heatmaps.reshape(1, 3, 2, 3, 2).mean((2, 4))
    np.testing.assert_allclose(pool_to_grid(heatmaps, 3), expected)
    assert pool_to_grid(heatmaps, 6) is heatmaps and pool_to_grid(heatmaps, 14) is heatmaps
