from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from tiny import write_store

from pipeline.config.reveal import NeuronsConfig
from pipeline.errors import ConfigError, StoreError
from pipeline.reveal import neurons as module
from pipeline.reveal.neuron_groups import profile_distances
from pipeline.reveal.neurons import Neurons
from pipeline.reveal.spaces import normalize_rows
from pipeline.reveal.view import DataView

COUNT, CHANNELS, OUTLIER, SILENT = 80, 24, 4, 8
PAIR = (11, 15)
NAMES = ("cat", "dog")


def make_detector(**changes) -> Neurons:
    return Neurons(NeuronsConfig(kind="neurons", **changes))


def make_view(folder, layers: dict[str, np.ndarray], labels: np.ndarray | None = None) -> DataView:
    count = len(next(iter(layers.values())))
    store = write_store(folder, {name: values.astype(np.float32) for name, values in layers.items()})
    store.labels = np.zeros(count, dtype=np.int64) if labels is None else labels
    return DataView(store, SimpleNamespace(classes=NAMES), None, np.arange(count))


@pytest.fixture
def relevances() -> np.ndarray:
    """Neurons follow one pattern over the samples; one fires for the last 20 alone, two others for the first 16."""
    generator = np.random.default_rng(0)
    values = generator.random((COUNT, 1)) * generator.uniform(0.5, 2, (1, CHANNELS))
    values = values + 0.01 * generator.random((COUNT, CHANNELS))
    values[:, OUTLIER] = np.where(np.arange(COUNT) >= 60, 9.0, 0.0)
    for neuron in PAIR:
        values[:, neuron] = np.where(np.arange(COUNT) < 16, 9.0, 0.0) * generator.uniform(0.9, 1.1, COUNT)
    values[0, PAIR[0]] = 0
    values[:, SILENT] = 0
    return values


@pytest.fixture
def view(tmp_path, relevances) -> DataView:
    noise = np.random.default_rng(1).random((COUNT, CHANNELS))
    return make_view(tmp_path, {"a": noise, "planted": relevances})


def test_a_planted_outlier_neuron_is_found_with_the_samples_on_which_it_fires(view):
    found = make_detector(layers=["planted"], neighbors=2, per_class=1).detect(view).candidates
    (alone,) = [each for each in found if len(each.neuron_ids) == 1]
    assert alone.neuron_ids == (OUTLIER,) and alone.layer == "planted" and alone.detector == "neurons"
    assert alone.class_id == 0
    assert alone.member_rows.tolist() == list(range(60, COUNT))
    assert f"neuron {OUTLIER} of planted" in alone.note and "20 of 80 samples" in alone.note


@pytest.mark.parametrize("score", ["knn", "lof"])
def test_both_scores_rank_the_planted_neuron_first(tmp_path, relevances, score):
    values = np.delete(relevances, PAIR, axis=1)
    found = make_detector(layers=["a"], score=score, per_class=1).detect(make_view(tmp_path, {"a": values})).candidates
    assert [each.neuron_ids for each in found] == [(OUTLIER,)]


def test_a_planted_pair_of_neurons_is_one_group_with_the_samples_that_it_carries_together(view):
    found = make_detector(layers=["planted"], per_class=1).detect(view).candidates
    (pair,) = [each for each in found if len(each.neuron_ids) > 1]
    assert pair.neuron_ids == PAIR
    assert pair.member_rows.tolist() == list(range(16))
    assert "neurons 11, 15 of planted act alike" in pair.note and "16 of 80 samples" in pair.note


@pytest.mark.parametrize("per_class", [1, 2])
def test_groups_of_neurons_are_reported_up_to_the_same_number(tmp_path, relevances, per_class):
    relevances[:, [18, 20]] = np.where((np.arange(COUNT) >= 30) & (np.arange(COUNT) < 45), 9.0, 0.0)[:, None]
    found = make_detector(layers=["a"], per_class=per_class).detect(make_view(tmp_path, {"a": relevances})).candidates
    groups = [each.neuron_ids for each in found if len(each.neuron_ids) > 1]
    assert len(groups) == per_class and set(groups) <= {PAIR, (18, 20)}


@pytest.mark.parametrize("per_class", [1, 2])
def test_each_class_and_layer_reports_at_most_its_number_of_neurons_and_of_groups(view, per_class):
    found = make_detector(per_class=per_class).detect(view).candidates
    for layer in ("planted", "a"):
        sizes = [len(each.neuron_ids) for each in found if each.layer == layer]
        assert sizes.count(1) <= per_class and len(sizes) - sizes.count(1) <= per_class
    assert any(each.layer == "planted" for each in found)


def test_figures_are_kept_of_every_neuron_that_is_not_silent(view, relevances):
    arrays = make_detector(layers=["planted"]).detect(view).arrays
    channels = arrays["0/planted/channels"]
    assert channels.tolist() == [channel for channel in range(CHANNELS) if channel != SILENT]
    expected = profile_distances(normalize_rows(relevances)[:, channels])
    np.testing.assert_allclose(arrays["0/planted/distances"], expected, atol=2e-3)
    scores, clusters = arrays["0/planted/scores"], arrays["0/planted/clusters"]
    assert channels[scores.argmax()] == OUTLIER
    places = {int(channel): place for place, channel in enumerate(channels)}
    first, second = (clusters[places[neuron]] for neuron in PAIR)
    assert first == second != clusters[places[0]] != clusters[places[OUTLIER]] != first
    assert arrays["0/planted/map"].shape == (len(channels), 2)


def test_distances_are_left_out_when_they_would_fill_the_memory(view, monkeypatch):
    monkeypatch.setattr(module, "DISTANCE_BYTES", 2 * CHANNELS**2)
    arrays = make_detector().detect(view).arrays
    assert sum(name.endswith("/distances") for name in arrays) == 1
    assert sum(name.endswith("/scores") for name in arrays) == 2


def test_what_is_compared_is_the_configured_quantity_and_members_carry_relevance(tmp_path, relevances):
    view = make_view(tmp_path, {"a": np.ones((COUNT, CHANNELS))})
    read = []
    view.store.activations = lambda layer, pooling, rows: read.append(pooling) or relevances[rows].astype(np.float32)
    carried = np.full((COUNT, CHANNELS), 0.1, dtype=np.float32)
    carried[20:35, OUTLIER] = 5
    view.store.relevances = lambda layer, condition, rows, kept="sum": carried[rows]
    found = make_detector(quantity="activation_mean", per_class=1, neighbors=2).detect(view).candidates
    assert read == ["mean"]
    assert found[0].neuron_ids == (OUTLIER,)
    assert found[0].member_rows.tolist() == list(range(20, 35))


def test_classes_are_looked_at_one_by_one_and_shown_where_a_neuron_stands_out_most(tmp_path, relevances):
    generator = np.random.default_rng(2)
    others = generator.random((40, 1)) + 0.05 * generator.random((40, CHANNELS))
    labels = np.repeat([0, 1], [40, COUNT])
    view = make_view(tmp_path, {"a": np.concatenate([others, relevances])}, labels)
    found = make_detector(neighbors=2, per_class=1).detect(view)
    assert {name.split("/")[0] for name in found.arrays} == {"0", "1"}
    of_dogs = [each for each in found.candidates if each.class_id == 1 and each.neuron_ids == (OUTLIER,)]
    assert of_dogs[0].member_rows.tolist() == list(range(100, 120))
    assert [caption.rsplit(" ", 1)[1] for caption in found.pictures] == ["dog", "cat"]
    assert all(image.width > 200 for image in found.pictures.values())


def test_the_number_of_pictures_is_bounded(tmp_path, relevances, monkeypatch):
    monkeypatch.setattr(module, "MOST_MAPS", 1)
    view = make_view(tmp_path, {"a": np.tile(relevances, (2, 1))}, np.repeat([0, 1], COUNT))
    assert len(make_detector().detect(view).pictures) == 1


def test_detection_repeats_itself(view):
    first, second = (make_detector().detect(view) for _ in range(2))
    assert [each.note for each in first.candidates] == [each.note for each in second.candidates]
    assert all(np.array_equal(first.arrays[name], second.arrays[name]) for name in first.arrays)


@pytest.mark.parametrize("count", [0, 23])
def test_a_class_that_is_too_small_for_two_groups_has_nothing(view, count):
    found = make_detector().detect(view.restricted(np.arange(count), 0))
    assert found.candidates == [] and found.arrays == {} and found.pictures == {}


def test_a_layer_with_two_neurons_at_work_has_nothing(tmp_path):
    values = np.zeros((COUNT, 5))
    values[:, :2] = np.random.default_rng(0).random((COUNT, 2))
    assert make_detector().detect(make_view(tmp_path, {"a": values})).candidates == []


def test_an_unknown_layer_is_refused_with_the_nearest_one(view):
    with pytest.raises(ConfigError, match="'plantd'. Did you mean 'planted'"):
        make_detector(layers=["plantd"]).detect(view)


def test_a_quantity_that_is_not_stored_is_refused_with_the_key_to_set(view):
    with pytest.raises(StoreError, match="relevance_pooling"):
        make_detector(quantity="relevance_max").detect(view)
