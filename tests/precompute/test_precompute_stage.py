from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from pipeline.attribution import attribute
from pipeline.data.memory import ArrayDataset, make_table
from pipeline.models.open import open_original
from pipeline.precompute import stage
from pipeline.workspace.features import FEATURES, FeatureStore
from pipeline.workspace.records import Health

HALF = dict(rtol=2e-3, atol=1e-3)
"""Half precision keeps 11 bits."""
LAYERS = ("network.conv1", "network.relu1", "network.conv2", "network.relu2")


@pytest.fixture
def mislabelled(tiny_dataset):
    """70 images, of which every third has the label of the next class: label and prediction differ."""
    count = 70
    labels = tiny_dataset.table["label"].to_numpy()[:count]
    labels = np.where(np.arange(count) % 9 < 3, (labels + 1) % 3, labels)
    splits = tiny_dataset.table["split"].tolist()[:count]
    return ArrayDataset(
        tiny_dataset.pixels[:count], make_table([f"m{i}" for i in range(count)], labels, splits), tiny_dataset.classes
    )


@pytest.fixture
def make(tiny_context, mislabelled):
    return lambda **precompute: tiny_context(mislabelled, precompute={"chunk_rows": 16} | precompute)


def contents(path) -> dict[str, np.ndarray]:
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.__setitem__(name, item[()]) if isinstance(item, h5py.Dataset) else None
        )
    return found


def pooled(relevance: torch.Tensor) -> np.ndarray:
    sums = relevance.double().flatten(2).sum(2).numpy()
    return sums / np.abs(sums).max(1, keepdims=True)


@pytest.mark.parametrize("composite", ["epsilon_plus_flat", "epsilon_gamma_box"])
def test_the_store_holds_what_direct_attribution_returns(make, mislabelled, composite):
    context = make(composite=composite)
    stage.run(context)
    store = FeatureStore(context.directory.root / FEATURES)
    model = open_original(context, mislabelled)
    x = torch.stack([sample.x for sample in mislabelled])
    labels = torch.tensor(mislabelled.table["label"].to_numpy())
    with torch.no_grad():
        logits = model(x)
    targets = {"label": labels, "predicted": logits.argmax(1)}
    assert (targets["label"] != targets["predicted"]).sum() > 10
    np.testing.assert_allclose(store.logits, logits.numpy(), rtol=1e-4, atol=1e-4)
    for condition, target in targets.items():
        found = attribute(model, x, target, composite=composite, layers=LAYERS)
        heatmaps = found.heatmap.numpy()
        scaled = heatmaps / np.abs(heatmaps).max((1, 2), keepdims=True)
        np.testing.assert_allclose(store.heatmaps(condition), scaled, **HALF)
        for layer in LAYERS:
            np.testing.assert_allclose(store.relevances(layer, condition), pooled(found.relevances[layer]), **HALF)
            activation = found.activations[layer].flatten(2).numpy()
            np.testing.assert_allclose(store.activations(layer), activation.max(2), **HALF)
            np.testing.assert_allclose(store.activations(layer, "mean"), activation.mean(2), **HALF)


def test_the_store_has_rows_in_the_order_of_the_table_and_layers_from_input_to_output(make, mislabelled):
    context = make(layers=["network.relu*", "network.conv1"])
    stage.run(context)
    store = FeatureStore(context.directory.root / FEATURES)
    assert store.layers == ("network.conv1", "network.relu1", "network.relu2")
    assert list(store.kinds.values()) == ["convolution", "activation", "activation"]
    assert store.ids.tolist() == mislabelled.table["id"].tolist()
    assert store.labels.tolist() == mislabelled.table["label"].tolist()


def test_a_killed_stage_goes_on_where_it_was_and_ends_with_the_same_store(make, monkeypatch):
    context = make()
    target = context.directory.root / FEATURES
    stage.run(context)
    expected = contents(target)
    target.unlink()
    explain, computed = stage._explain_rows, []

    def killed(context, dataset, explainer, layers, rows):
        if len(computed) == 2:
            raise KeyboardInterrupt
        computed.append(int(rows[0]))
        return explain(context, dataset, explainer, layers, rows)

    monkeypatch.setattr(stage, "_explain_rows", killed)
    with pytest.raises(KeyboardInterrupt):
        stage.run(context)
    assert computed == [0, 16] and not target.exists()

    def counted(*arguments):
        computed.append(int(arguments[-1][0]))
        return explain(*arguments)

    monkeypatch.setattr(stage, "_explain_rows", counted)
    stage.run(context)
    assert computed == [0, 16, 32, 48, 64]
    found = contents(target)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert not (context.directory.root / "precompute/chunks").exists()


def test_one_condition_is_stored_alone(make):
    context = make(conditions=["predicted"])
    stage.run(context)
    names = contents(context.directory.root / FEATURES)
    assert "heatmaps/predicted" in names and not any(name.endswith("label") for name in names)


def test_activations_beyond_half_precision_are_stored_as_its_largest_value(tiny_context, mislabelled):
    context = tiny_context(mislabelled)
    weights = context.directory.root / "model/original.pt"
    state = torch.load(weights, weights_only=True)
    state["norm1.weight"] *= 1e6
    torch.save(state, weights)
    stage.run(context)
    activations = FeatureStore(context.directory.root / FEATURES).activations("network.relu1")
    assert np.isfinite(activations).all()
    assert activations.max() == np.finfo(np.float16).max


def test_the_health_of_the_attribution_is_recorded(tiny_run):
    health = Health.model_validate_json((tiny_run / stage.HEALTH).read_text())
    assert health.healthy and health.finite
    assert abs(health.conservation - 1) < 0.01
    assert health.composite == "epsilon_plus_flat"
