from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from small_networks import SHAPES, make_case

from pipeline.attribution import Explainer, attribute
from pipeline.data.memory import ArrayDataset, LabelledSamples, make_table
from pipeline.errors import ConfigError
from pipeline.models.checkpoints import save_weights
from pipeline.models.open import open_original
from pipeline.precompute import stage
from pipeline.precompute.seals import is_sealed
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
def fresh_context(tiny_context):
    """As `tiny_context`, before precompute."""

    def make(*arguments, **changes):
        context = tiny_context(*arguments, **changes)
        context.directory.clear("precompute")
        return context

    return make


@pytest.fixture
def make(fresh_context, mislabelled):
    return lambda **precompute: fresh_context(mislabelled, precompute={"chunk_rows": 16} | precompute)


@pytest.fixture
def computed(monkeypatch):
    """The numbers of rows of the chunks that were computed, in order; `computed.limit` ends the process before more."""

    class Computed(list):
        limit = None

    found, explain = Computed(), stage.explain_rows

    def counted(explainer, batches, count, *others):
        if found.limit is not None and len(found) >= found.limit:
            raise KeyboardInterrupt
        found.append(count)
        return explain(explainer, batches, count, *others)

    monkeypatch.setattr(stage, "explain_rows", counted)
    return found


def contents(path) -> dict[str, np.ndarray]:
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.__setitem__(name, item[()]) if isinstance(item, h5py.Dataset) else None
        )
    return found


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


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
        largest = np.abs(heatmaps).max((1, 2))
        np.testing.assert_allclose(store.heatmaps(condition), heatmaps / largest[:, None, None], **HALF)
        np.testing.assert_allclose(store.heatmap_scales(condition), largest, rtol=1e-3)
        for layer in LAYERS:
            np.testing.assert_allclose(store.relevances(layer, condition), pooled(found.relevances[layer]), **HALF)
            sums = found.relevances[layer].flatten(2).sum(2).abs().amax(1)
            np.testing.assert_allclose(store.relevance_scales(layer, condition), sums, rtol=1e-3)
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


def test_a_killed_stage_goes_on_where_it_was_and_ends_with_the_same_bytes(make, computed):
    context = make()
    target = context.directory.root / FEATURES
    stage.run(context)
    expected, data = target.read_bytes(), contents(target)
    assert computed == [16, 16, 16, 16, 6]
    target.unlink()
    computed.clear()
    computed.limit = 2
    with pytest.raises(KeyboardInterrupt):
        stage.run(context)
    assert not target.exists()
    (context.directory.root / "precompute/chunks/.000002.npz.1.partial").write_bytes(b"killed while it wrote")
    computed.limit = None
    stage.run(context)
    assert computed == [16, 16, 16, 16, 6], "the first two were not computed again"
    assert_equal(contents(target), data)
    assert target.read_bytes() == expected
    assert not (context.directory.root / "precompute/chunks").exists()


def test_chunks_may_be_finished_in_any_order(make, computed):
    context = make()
    target = context.directory.root / FEATURES
    stage.run(context)
    expected = target.read_bytes()
    target.unlink()
    computed.limit = 8
    with pytest.raises(KeyboardInterrupt):
        stage.run(context)
    first = next((context.directory.root / "precompute/chunks").glob("000000-*"))
    first.unlink()
    computed.limit = None
    computed.clear()
    stage.run(context)
    assert computed == [16, 16, 6], "the one that was lost, and the two that were missing"
    assert target.read_bytes() == expected


def test_a_stage_killed_between_its_last_file_and_its_record_computes_nothing_again(make, computed):
    context = make()
    stage.run(context)
    target = context.directory.root / FEATURES
    assert is_sealed(target, context.key)
    computed.clear()
    stage.run(context)
    assert computed == []
    content = bytearray(target.read_bytes())
    content[-100] ^= 0xFF
    target.write_bytes(content)
    stage.run(context)
    assert sum(computed) == 70, "a damaged store is not taken for a finished one"


def test_worker_processes_read_the_same_rows(make):
    context = make()
    stage.run(context)
    target = context.directory.root / FEATURES
    expected = target.read_bytes()
    target.unlink()
    stage.run(make(workers=2))
    assert target.read_bytes() == expected


def test_one_condition_is_stored_alone(make):
    context = make(conditions=["predicted"])
    stage.run(context)
    names = contents(context.directory.root / FEATURES)
    assert "heatmaps/predicted" in names and not any(name.endswith("label") for name in names)


def test_a_class_is_a_condition_of_its_own(make, mislabelled):
    context = make(conditions=["class:down", "class:2"], layers=["network.relu2"])
    stage.run(context)
    store = FeatureStore(context.directory.root / FEATURES)
    model = open_original(context, mislabelled)
    x = torch.stack([sample.x for sample in mislabelled])
    for condition, class_id in (("class:down", 1), ("class:2", 2)):
        found = attribute(model, x, class_id, composite="epsilon_plus_flat", layers=["network.relu2"])
        np.testing.assert_allclose(
            store.relevances("network.relu2", condition), pooled(found.relevances["network.relu2"]), **HALF
        )


def test_rules_of_single_layers_reach_attribution(make, mislabelled):
    found = {}
    for rule in ("z_plus", "epsilon"):
        context = make(rules={"network.conv*": rule}, layers=["network.relu1"], conditions=["label"])
        stage.run(context)
        found[rule] = FeatureStore(context.directory.root / FEATURES).relevances("network.relu1")
    model = open_original(make(), mislabelled)
    x = torch.stack([sample.x for sample in mislabelled])
    labels = torch.tensor(mislabelled.table["label"].to_numpy())
    for rule, relevances in found.items():
        expected = Explainer(model, x[:2], "epsilon_plus_flat", rules={"network.conv*": rule}).attribute(
            x, labels, layers=["network.relu1"]
        )
        np.testing.assert_allclose(relevances, pooled(expected.relevances["network.relu1"]), **HALF)
    assert np.abs(found["z_plus"] - found["epsilon"]).max() > 0.1


def test_an_unknown_class_is_found_before_anything_is_computed(make, computed):
    with pytest.raises(ConfigError, match="'class:dwn' names no class of the data set. Did you mean 'down'"):
        stage.run(make(conditions=["class:dwn"]))
    assert computed == []


def test_maps_and_pooled_relevance_are_stored_where_configured(make, mislabelled):
    context = make(
        positions="grid", grid=4, relevance_pooling=["max"], conditions=["label"], dtype="float32",
        layers=["network.relu1"],
    )  # fmt: skip
    stage.run(context)
    store = FeatureStore(context.directory.root / FEATURES)
    model = open_original(context, mislabelled)
    x = torch.stack([sample.x for sample in mislabelled])
    labels = torch.tensor(mislabelled.table["label"].to_numpy())
    found = attribute(model, x, labels, composite="epsilon_plus_flat", layers=["network.relu1"])
    activation, relevance = found.activations["network.relu1"], found.relevances["network.relu1"]
    cells = activation.unflatten(3, (4, -1)).unflatten(2, (4, -1)).mean((3, 5)).numpy()
    rows = np.array([60, 3])
    np.testing.assert_allclose(store.activation_maps("network.relu1", rows), cells[rows], rtol=1e-4, atol=1e-6)
    restored = store.relevances("network.relu1", "label", rows, "map") * store.relevance_scales(
        "network.relu1", "label", rows, "map"
    ).reshape(-1, 1, 1, 1)
    cells = relevance.unflatten(3, (4, -1)).unflatten(2, (4, -1)).mean((3, 5)).numpy()
    np.testing.assert_allclose(restored, cells[rows], rtol=1e-3, atol=1e-6)
    restored = (
        store.relevances("network.relu1", kept="max") * store.relevance_scales("network.relu1", kept="max")[:, None]
    )
    np.testing.assert_allclose(restored, relevance.clamp(min=0).amax((2, 3)).numpy(), rtol=1e-3, atol=1e-6)


class Described(LabelledSamples):
    """Samples of any shape, in memory."""

    def __init__(self, values: np.ndarray):
        table = make_table(
            [f"d{row}" for row in range(len(values))], np.arange(len(values)) % 3, ["train"] * len(values)
        )
        super().__init__(table, ("a", "b", "c"), values.shape[1:])
        self.values = values

    def pixels_at(self, index: int) -> np.ndarray:
        return self.values[index]


class SeveralLabels(Described):
    """The same with a row of flags for each sample."""

    def __getitem__(self, index: int):
        return super().__getitem__(index)._replace(y=np.array([index % 2, index % 3 == 0, 0]))


@pytest.mark.parametrize("kind", [Described, SeveralLabels])
@pytest.mark.parametrize("name", ["signals", "tokens"])
def test_signals_tokens_and_samples_of_several_labels_are_stored(fresh_context, name, kind):
    network, _ = make_case(name)
    dataset = kind(np.random.default_rng(0).integers(0, 255, (20, *SHAPES[name]), dtype=np.uint8))
    arch = {"signals": "small_networks:SignalNetwork", "tokens": "small_networks:TokenNetwork"}[name]
    context = fresh_context(
        dataset, model={"arch": arch, "params": {}}, precompute={"chunk_rows": 8, "positions": "full"}
    )
    save_weights(network, context.directory.root / "model/original.pt")
    stage.run(context)
    store = FeatureStore(context.directory.root / FEATURES)
    x = torch.stack([dataset[row].x for row in range(20)])
    labels = torch.from_numpy(np.array([dataset[row].y for row in range(20)]))
    assert np.array_equal(store.labels, labels)
    layer, axis = {"signals": ("relu", 1), "tokens": ("blocks.1.activation", -1)}[name]
    assert f"network.{layer}" in store.layers
    target = labels if labels.ndim == 1 else labels.float()
    found = attribute(network, x, target, composite="epsilon_plus_flat", layers=[layer])
    relevance, activation = found.relevances[layer].movedim(axis, 1), found.activations[layer].movedim(axis, 1)
    restored = store.relevances(f"network.{layer}") * store.relevance_scales(f"network.{layer}")[:, None]
    np.testing.assert_allclose(restored, relevance.sum(2), rtol=5e-3, atol=1e-3)
    np.testing.assert_allclose(store.activations(f"network.{layer}"), activation.amax(2), **HALF)
    np.testing.assert_allclose(store.activation_maps(f"network.{layer}"), activation, **HALF)
    assert store.heatmaps().shape == (20, *SHAPES[name][1:])


def test_activations_beyond_half_precision_are_stored_as_its_largest_value(fresh_context, mislabelled):
    context = fresh_context(mislabelled)
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
