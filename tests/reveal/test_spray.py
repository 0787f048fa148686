from __future__ import annotations

import numpy as np
import pytest
from tiny import write_store

from pipeline.config.reveal import SprayConfig
from pipeline.errors import ConfigError
from pipeline.reveal.candidates import ClassView
from pipeline.reveal.spray import Spray, pool_to_grid, spray

COUNT, PLANTED = 60, 20


def planted_heatmaps() -> np.ndarray:
    """Heatmaps 20 x 20 of noise; the first 20 have their relevance in one corner."""
    heatmaps = np.random.default_rng(0).standard_normal((COUNT, 20, 20)) * 0.1
    heatmaps[:PLANTED, :5, :5] += 1.0
    return heatmaps.astype(np.float16)


@pytest.fixture
def view(tmp_path):
    """Layer "deep" has a planted group of the last 30, the others do not; heatmaps have one of the first 20."""
    generator = np.random.default_rng(1)
    layers = {name: generator.standard_normal((COUNT, 8)).astype(np.float32) for name in ("a", "b", "deep")}
    layers["deep"][30:, 0] += 20.0
    store = write_store(tmp_path, layers, planted_heatmaps())
    return ClassView(store, 0, np.arange(COUNT), "label", ("deep", "b", "a"), 0)


def detect(view: ClassView, **settings):
    return Spray(SprayConfig(kind="spray", **settings)).detect(view)


def test_a_planted_group_is_found_in_the_heatmaps():
    result = spray(planted_heatmaps(), neighbors=8)
    planted = np.arange(COUNT) < PLANTED
    assert any(np.array_equal(group, planted) for group in result.groups)
    assert any(np.array_equal(group, ~planted) for group in result.groups)


def test_groups_of_every_space_are_candidates(view):
    found = detect(view, spaces=["heatmap", "deep"], grid=5)
    memberships = {(each.layer, tuple(np.flatnonzero(each.members))) for each in found}
    assert ("input", tuple(range(PLANTED))) in memberships
    assert ("deep", tuple(range(30, COUNT))) in memberships
    for each in found:
        if tuple(np.flatnonzero(each.members)) in (tuple(range(PLANTED)), tuple(range(30, COUNT))):
            assert each.conductance < 0.05
        assert each.detector == "spray" and each.class_id == 0


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


def test_a_class_that_is_too_small_for_two_groups_has_nothing(view):
    small = ClassView(view.store, 0, np.arange(23), "label", view.deep_layers, 0)
    assert detect(small, min_cluster_size=12) == []
    assert Spray(SprayConfig(kind="spray", min_cluster_size=12)).analyse(small, "input") is None


def test_rows_of_other_classes_are_not_looked_at(view):
    rows = np.arange(10, COUNT)
    found = detect(ClassView(view.store, 0, rows, "label", view.deep_layers, 0), spaces=["deep"])
    assert any(np.array_equal(each.member_rows, np.arange(30, COUNT)) for each in found)
    assert all(len(each.members) == len(rows) for each in found)


def test_an_unknown_space_is_refused_with_the_nearest_and_all_allowed_ones(view):
    with pytest.raises(ConfigError, match="'heatmaps'. Did you mean 'heatmap'.* Allowed: heatmap, latent, a, b, deep"):
        detect(view, spaces=["heatmaps"])


def test_heatmaps_are_averaged_over_the_cells_of_a_grid():
    heatmaps = np.arange(36, dtype=np.float32).reshape(1, 6, 6)
    expected = heatmaps.reshape(1, 3, 2, 3, 2).mean((2, 4))
    np.testing.assert_allclose(pool_to_grid(heatmaps, 3), expected)
    assert pool_to_grid(heatmaps, 6) is heatmaps and pool_to_grid(heatmaps, 14) is heatmaps
