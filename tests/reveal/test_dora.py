from __future__ import annotations

import importlib

import numpy as np
import pytest
import tiny
import torch
from tiny import write_store
from torch import nn

from pipeline.config.reveal import DoraConfig
from pipeline.data.memory import ArrayDataset, make_table
from pipeline.errors import ConfigError
from pipeline.models.open import open_original
from pipeline.reveal import dora
from pipeline.reveal.candidates import Candidate, overlap
from pipeline.reveal.dora import Dora, extreme_activation_distances, layer_profile, natural_responses, relevance_shares
from pipeline.reveal.view import ClassView, DataView
from pipeline.workspace.features import FEATURES, FeatureStore

COUNT, CHANNELS, OUTLIER, DEAD = 120, 9, 4, 8


def cosine_of_rows(responses, first, second, columns):
    a, b = responses[first][columns], responses[second][columns]
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.parametrize("pairwise", [False, True])
def test_distances_equal_the_definition(pairwise):
    responses = np.random.default_rng(0).normal(size=(7, 7))
    found = extreme_activation_distances(responses, pairwise=pairwise)
    for i in range(7):
        for j in range(7):
            columns = [i, j] if pairwise else list(range(7))
            expected = np.sqrt(max(0, 1 - cosine_of_rows(responses, i, j, columns)) / 2) if i != j else 0
            assert found[i, j] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("pairwise", [False, True])
def test_distances_are_symmetric_in_0_to_1_with_a_zero_diagonal(pairwise):
    found = extreme_activation_distances(np.random.default_rng(1).normal(size=(30, 30)), pairwise=pairwise)
    assert np.array_equal(found, found.T) and not np.diag(found).any()
    assert 0 <= found.min() and found.max() <= 1


def test_identical_neurons_are_0_opposite_ones_1_and_orthogonal_ones_in_between():
    responses = np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [-3.0, -6.0, 0.0]])
    found = extreme_activation_distances(responses)
    assert found[0, 1] == pytest.approx(0, abs=1e-7) and found[0, 2] == 1
    assert extreme_activation_distances(np.eye(3))[0, 1] == pytest.approx(np.sqrt(0.5))


@pytest.mark.parametrize("pairwise", [False, True])
def test_a_neuron_without_responses_is_orthogonal_to_all(pairwise):
    found = extreme_activation_distances(np.diag([1.0, 0.0, 2.0]), pairwise=pairwise)
    assert np.isfinite(found).all() and found[1, 0] == found[1, 2] == pytest.approx(np.sqrt(0.5))


def planted_activations() -> np.ndarray:
    """All channels follow a common pattern over the samples; one fires on the last 30 samples, one never."""
    generator = np.random.default_rng(0)
    common = generator.random((COUNT, 1)) * generator.uniform(0.5, 4, (1, CHANNELS))
    values = common + 0.05 * generator.random((COUNT, CHANNELS))
    values[90:] *= 0.2
    values[:, OUTLIER] = np.where(np.arange(COUNT) >= 90, 6 + generator.random(COUNT), 0)
    values[:, DEAD] = 0.3
    return values.astype(np.float32)


def make_view(folder, layers, labels=None, model=None, side=4) -> DataView:
    store = write_store(folder, layers)
    labels = np.zeros(COUNT, dtype=int) if labels is None else labels
    store.__dict__["labels"] = labels
    pixels = np.random.default_rng(0).integers(0, 255, (COUNT, 1, side, side), dtype=np.uint8)
    table = make_table([f"s{row}" for row in range(COUNT)], labels, ["train"] * COUNT)
    dataset = ArrayDataset(pixels, table, ("none", "square"))
    return DataView(store, dataset, model or nn.Identity(), np.arange(COUNT))


@pytest.fixture
def view(tmp_path) -> DataView:
    labels = (np.arange(COUNT) >= 60).astype(int)
    return make_view(tmp_path, {"other": np.ones((COUNT, 4), np.float32), "planted": planted_activations()}, labels)


@pytest.mark.parametrize("block", [1, 7, 1024])
def test_the_profile_of_a_layer_equals_numpys_whatever_the_block(view, block, monkeypatch):
    monkeypatch.setattr(dora, "BLOCK", block)
    rows = np.arange(3, COUNT)
    values = planted_activations()[rows].astype(np.float64)
    found = layer_profile(view.restricted(rows, 0), "planted", 5)
    np.testing.assert_allclose(found.mean, values.mean(0), rtol=1e-6)
    np.testing.assert_allclose(np.delete(found.deviation, DEAD), np.delete(values.std(0), DEAD), rtol=1e-5)
    assert found.deviation[DEAD] == 0 and DEAD not in found.varying
    np.testing.assert_array_equal(found.signals, rows[np.argsort(-values, axis=0, kind="stable")[:5]].T)


def test_few_samples_are_all_signals(view):
    assert layer_profile(view.restricted(np.arange(3), 0), "planted", 5).signals.shape == (CHANNELS, 3)


@pytest.mark.parametrize("block", [11, 1024])
def test_natural_responses_are_mean_standardized_activations_on_the_strongest_samples(view, block, monkeypatch):
    monkeypatch.setattr(dora, "BLOCK", block)
    profile = layer_profile(view, "planted", 5)
    values = np.delete(planted_activations().astype(np.float64), DEAD, axis=1)
    standardized = (values - values.mean(0)) / values.std(0)
    expected = [standardized[np.argsort(-column)[:5]].mean(0) for column in values.T]
    np.testing.assert_allclose(natural_responses(view, "planted", profile), expected, rtol=1e-4, atol=1e-5)


def test_only_samples_above_the_mean_are_signals(tmp_path):
    values = np.random.default_rng(3).random((COUNT, 4)).astype(np.float32)
    values[:, 2] = 0
    values[[17, 80], 2] = 1
    view = make_view(tmp_path, {"a": values})
    found = natural_responses(view, "a", layer_profile(view, "a", 5))
    standardized = (values - values.mean(0)) / values.std(0)
    np.testing.assert_allclose(found[2], standardized[[17, 80]].mean(0), rtol=1e-4, atol=1e-5)


def test_relevance_shares_are_means_of_positive_shares(view, monkeypatch):
    monkeypatch.setattr(dora, "BLOCK", 13)
    values = planted_activations()
    signs = np.where(np.arange(CHANNELS) == 1, -1, 1)
    monkeypatch.setattr(FeatureStore, "relevances", lambda self, layer, condition, rows, kept: values[rows] * signs)
    rows = np.arange(60, 120)
    shares = values[rows] / values[rows].sum(1, keepdims=True)
    expected = [0, shares[:, OUTLIER].mean()]
    found = relevance_shares(ClassView(view, 1, rows), "planted", np.array([1, OUTLIER]))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("score", ["knn", "lof"])
def test_a_planted_outlier_neuron_is_found_in_its_class_with_the_samples_on_which_it_fires(view, score):
    config = DoraConfig(kind="dora", layers=["planted"], per_layer=1, score=score)
    found = Dora(config).detect(view)
    (candidate,) = found.candidates
    assert candidate.neuron_ids == (OUTLIER,) and candidate.class_id == 1 and candidate.layer == "planted"
    assert candidate.member_rows.tolist() == list(range(90, COUNT))
    assert str(OUTLIER) in candidate.note
    channels = found.arrays["planted/channels"]
    assert DEAD not in channels and channels[found.arrays["planted/scores"].argmax()] == OUTLIER
    assert found.arrays["planted/distances"].shape == (CHANNELS - 1, CHANNELS - 1)
    (picture,) = found.pictures.values()
    assert picture.width > 4 * picture.height


def test_each_layer_reports_at_most_its_number_of_neurons(view):
    found = Dora(DoraConfig(kind="dora", layers=["planted"], per_layer=2)).detect(view)
    assert len(found.candidates) <= 2
    assert len({each.neuron_ids for each in found.candidates}) == len(found.candidates)


def test_a_layer_of_constant_channels_has_nothing_to_say(view):
    found = Dora(DoraConfig(kind="dora", layers=["other"])).detect(view)
    assert not found.candidates and not found.arrays and not found.pictures


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_handful_of_samples_has_nothing_to_say(view, count):
    assert Dora(DoraConfig(kind="dora")).detect(view.restricted(np.arange(count), 0)).candidates == []


def test_an_unknown_layer_is_refused_with_the_nearest_one(view):
    with pytest.raises(ConfigError, match="'plantd'. Did you mean 'planted'"):
        Dora(DoraConfig(kind="dora", layers=["plantd"])).detect(view)


class Brightness(nn.Module):
    """Channels 0 to 3 see the mean brightness in different strength, channel 4 sees darkness."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 1)
        self.conv.weight.data = torch.tensor([1.0, 2.0, 3.0, 4.0, -2.0]).view(5, 1, 1, 1)
        self.conv.bias.data = torch.tensor([0.0, 0.0, 0.0, 0.0, 2.0])
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.conv(x.mean((2, 3), keepdim=True))).flatten(1)


def test_with_synthetic_signals_the_model_itself_says_which_neuron_is_unlike_the_others(tmp_path):
    brightness = np.random.default_rng(0).random((COUNT, 1))
    weights, biases = np.array([1, 2, 3, 4, -2.0]), np.array([0, 0, 0, 0, 2.0])
    view = make_view(tmp_path, {"relu": (brightness * weights + biases).astype(np.float32)}, model=Brightness())
    config = DoraConfig(kind="dora", layers=["relu"], signals="synthetic", iterations=20, per_neuron=2, neighbors=2)
    first, second = Dora(config).detect(view), Dora(config).detect(view)
    assert first.arrays["relu/scores"].argmax() == 4
    assert first.arrays["relu/distances"][0, 1] < 0.2 < 0.8 < first.arrays["relu/distances"][0, 4]
    np.testing.assert_array_equal(first.arrays["relu/distances"], second.arrays["relu/distances"])
    (picture,) = first.pictures.values()
    assert picture.height > picture.width  # three neurons, two signals each


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_dataset) -> DataView:
    context = tiny.make_context(tmp_path_factory.mktemp("dora") / "run", tiny_dataset)
    for stage in ("train", "precompute"):
        importlib.import_module(f"pipeline.{stage}.stage").run(context)
    rows = np.flatnonzero(tiny_dataset.table["split"].to_numpy() != "test")
    store = FeatureStore(context.directory.root / FEATURES)
    return DataView(store, tiny_dataset, open_original(context, tiny_dataset), rows)


@pytest.mark.parametrize("signals", ["natural", "synthetic"])
def test_the_planted_square_of_a_trained_model_divides_its_class_as_a_candidate_does(trained, signals):
    config = DoraConfig(kind="dora", signals=signals, iterations=16, per_neuron=2)
    (planted,) = (each for each in trained.classes() if each.class_id == tiny.PLANTED_CLASS)
    with_square = np.array([tiny.is_planted(row) for row in planted.rows])
    truth = Candidate("truth", planted.class_id, "input", planted.rows, with_square)
    assert max(overlap(truth, each) for each in Dora(config).detect(trained).candidates) > 0.8
