from __future__ import annotations

import numpy as np
import pytest
from tiny import write_store

from pipeline.config.reveal import NeuronsConfig
from pipeline.errors import ConfigError
from pipeline.reveal.candidates import ClassView
from pipeline.reveal.neurons import Neurons, outlier_scores, profile_distances

COUNT, OUTLIER = 60, 4


def test_profiles_are_0_apart_when_proportional_1_when_orthogonal_and_2_when_opposite():
    profiles = np.array([[1.0, 2.0, 0.0, -3.0, 0.0], [0.0, 0.0, 5.0, 0.0, 0.0]])
    expected = [[0, 0, 1, 2, 1], [0, 0, 1, 2, 1], [1, 1, 0, 1, 1], [2, 2, 1, 0, 1], [1, 1, 1, 1, 1]]
    np.testing.assert_allclose(profile_distances(profiles), expected, atol=1e-12)


def test_the_score_is_the_mean_distance_to_the_nearest_others_never_to_itself():
    distances = np.array([[0.0, 0.1, 0.5], [0.1, 0.0, 0.7], [0.5, 0.7, 0.0]])
    np.testing.assert_allclose(outlier_scores(distances, 1), [0.1, 0.1, 0.5])
    np.testing.assert_allclose(outlier_scores(distances, 2), [0.3, 0.4, 0.6])
    np.testing.assert_allclose(outlier_scores(distances, 50), outlier_scores(distances, 2))


def test_duplicates_of_a_neuron_are_neighbours_of_one_another():
    distances = profile_distances(np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    np.testing.assert_allclose(outlier_scores(distances, 1), [0, 0, 1], atol=1e-12)


@pytest.fixture
def view(tmp_path):
    """All neurons follow one pattern over the samples, one of them fires for the last 20 samples alone."""
    generator = np.random.default_rng(0)
    relevances = generator.random((COUNT, 1)) * generator.uniform(0.5, 2, (1, 9)) + 0.01 * generator.random((COUNT, 9))
    relevances[:, OUTLIER] = np.where(np.arange(COUNT) >= 40, 6.0, 0.0)
    relevances[:, 8] = 0.0
    noise = generator.random((COUNT, 9))
    store = write_store(tmp_path, {"a": noise, "planted": relevances.astype(np.float32)})
    return ClassView(store, 0, np.arange(COUNT), "label", ("planted", "a"), 0)


def test_a_planted_outlier_neuron_is_found_with_the_samples_on_which_it_fires(view):
    found = Neurons(NeuronsConfig(kind="neurons", layers=["planted"], per_class=1)).detect(view)
    assert [each.neuron_ids for each in found] == [(OUTLIER,)]
    assert np.flatnonzero(found[0].members).tolist() == list(range(40, COUNT))
    assert found[0].layer == "planted" and found[0].conductance < 0.05


def test_each_layer_reports_at_most_its_number_of_neurons(view):
    found = Neurons(NeuronsConfig(kind="neurons", per_class=2)).detect(view)
    for layer in ("planted", "a"):
        assert sum(each.layer == layer for each in found) <= 2


def test_a_neuron_without_relevance_is_no_outlier(view):
    found = Neurons(NeuronsConfig(kind="neurons", layers=["planted"], per_class=9)).detect(view)
    assert (8,) not in [each.neuron_ids for each in found]


def test_a_class_that_is_too_small_for_two_groups_has_nothing(view):
    small = ClassView(view.store, 0, np.arange(23), "label", view.deep_layers, 0)
    assert Neurons(NeuronsConfig(kind="neurons")).detect(small) == []


def test_an_unknown_layer_is_refused_with_the_nearest_one(view):
    with pytest.raises(ConfigError, match="'plantd'. Did you mean 'planted'"):
        Neurons(NeuronsConfig(kind="neurons", layers=["plantd"])).detect(view)
