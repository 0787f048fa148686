"""What is stored of a batch, against attributions of one condition at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_networks import SHAPES, make_case

from pipeline.attribution import Explainer
from pipeline.config.precompute import PrecomputeConfig
from pipeline.models.trace import trace_layers
from pipeline.precompute.explain import Plan, explain_batch, reuse

COMPOSITE = "epsilon_plus"
IDS = torch.tensor([0, 1, 2, 0, 1, 2])
ROWS = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0]])
EXACT = dict(rtol=1e-4, atol=1e-6)


@pytest.fixture
def images():
    return make_case("images")


class Counting:
    """An explainer that remembers how many samples it explained at each call."""

    def __init__(self, network, x):
        self.explainer = Explainer(network, x[:2], COMPOSITE)
        self.counts = []

    def attribute(self, x, target=None, **options):
        self.counts.append(len(x))
        return self.explainer.attribute(x, target, **options)


def make_plan(network, x, conditions, **config) -> Plan:
    layers = {layer.name: layer.channel_axis for layer in trace_layers(network, x)}
    return Plan(layers, conditions, PrecomputeConfig(**{"dtype": "float32"} | config))


def moved(values: torch.Tensor, axis: int) -> np.ndarray:
    """Return `[N, C, positions]`."""
    first = values if axis == 1 else torch.moveaxis(values, -1, 1)
    return first.numpy().reshape(*first.shape[:2], -1)


@pytest.mark.parametrize("name", SHAPES)
def test_every_layer_is_kept_as_direct_attribution_finds_it(name):
    network, x = make_case(name)
    plan = make_plan(network, x, {"label": "label"}, relevance_pooling=["max", "mean"], positions="full")
    arrays = explain_batch(Explainer(network, x[:2], COMPOSITE), x, IDS, plan)
    found = Explainer(network, x[:2], COMPOSITE).attribute(x, IDS, layers=list(plan.layers))
    assert {-1, 1} >= set(plan.layers.values())
    for layer, axis in plan.layers.items():
        activation, relevance = moved(found.activations[layer], axis), moved(found.relevances[layer], axis)
        positive = np.maximum(relevance, 0)
        np.testing.assert_allclose(arrays[f"layers/{layer}/activation_max"], activation.max(2), **EXACT)
        np.testing.assert_allclose(arrays[f"layers/{layer}/activation_mean"], activation.mean(2), **EXACT)
        for name, expected in {
            "relevance": relevance.sum(2),
            "relevance_max": positive.max(2),
            "relevance_mean": positive.mean(2),
        }.items():
            assert np.abs(arrays[f"layers/{layer}/{name}_label"]).max() <= 1
            restored = arrays[f"layers/{layer}/{name}_label"] * arrays[f"layers/{layer}/{name}_scale_label"][:, None]
            np.testing.assert_allclose(restored, expected, **EXACT)
        if found.activations[layer].ndim > 2:
            whole = arrays[f"layers/{layer}/activation_map"]
            np.testing.assert_allclose(whole.reshape(activation.shape), activation, **EXACT)
            whole = arrays[f"layers/{layer}/relevance_map_label"].reshape(relevance.shape)
            restored = whole * arrays[f"layers/{layer}/relevance_map_scale_label"][:, None, None]
            np.testing.assert_allclose(restored, relevance, **EXACT)
    heatmaps, scales = arrays["heatmaps/label"], arrays["heatmap_scales/label"]
    assert heatmaps.shape == (len(x), *x.shape[2:])
    restored = heatmaps * scales.reshape(-1, *[1] * (heatmaps.ndim - 1))
    np.testing.assert_allclose(restored, found.relevance.sum(1).numpy(), **EXACT)
    np.testing.assert_allclose(arrays["logits"], found.logits.numpy(), **EXACT)
    assert arrays["labels"].tolist() == IDS.tolist()


def test_tokens_have_their_channels_last_and_are_stored_with_channels_first():
    network, x = make_case("tokens")
    plan = make_plan(network, x, {"label": "label"}, positions="full")
    assert (plan.layers["blocks.0.second"], plan.layers["mix"], plan.layers["patches"]) == (-1, -1, 1)
    arrays = explain_batch(Explainer(network, x[:2], COMPOSITE), x, IDS, plan)
    assert arrays["layers/blocks.0.second/activation_map"].shape == (6, 4, 6)
    assert arrays["layers/mix/activation_map"].shape == (6, 6, 3, 2)
    assert arrays["layers/mix/relevance_label"].shape == (6, 6)


def test_a_grid_holds_means_over_positions(images):
    network, x = images
    plan = make_plan(network, x, {"label": "label"}, positions="grid", grid=3)
    explainer = Explainer(network, x[:2], COMPOSITE)
    arrays = explain_batch(explainer, x, IDS, plan)
    relevance = explainer.attribute(x, IDS, layers=["relu"]).relevances["relu"]
    cell = relevance[:, :, 3:6, 2:5].mean((2, 3)).numpy()
    found = arrays["layers/relu/relevance_map_label"] * arrays["layers/relu/relevance_map_scale_label"].reshape(
        6, 1, 1, 1
    )
    assert found.shape == (6, 4, 3, 3)
    np.testing.assert_allclose(found[:, :, 1, 1], cell, **EXACT)
    assert not any("map" in name for name in arrays if "hidden" in name), "no positions, no map"


def test_nothing_is_kept_that_was_not_asked_for(images):
    network, x = images
    plan = make_plan(network, x, {"predicted": "predicted"}, pooling=["mean"])
    plan = Plan({"relu": 1}, plan.conditions, plan.config)
    assert set(explain_batch(Explainer(network, x[:2], COMPOSITE), x, IDS, plan)) == {
        "labels", "logits", "heatmaps/predicted", "heatmap_scales/predicted", "layers/relu/activation_mean",
        "layers/relu/relevance_predicted", "layers/relu/relevance_scale_predicted",
    }  # fmt: skip


@pytest.mark.parametrize(("dtype", "kind"), [("float16", np.float16), ("float32", np.float32)])
def test_values_have_the_configured_precision_and_scales_and_logits_full(images, dtype, kind):
    network, x = images
    plan = make_plan(network, x, {"label": "label"}, dtype=dtype, positions="grid")
    for name, array in explain_batch(Explainer(network, x[:2], COMPOSITE), x, IDS, plan).items():
        if name != "labels":
            assert array.dtype == (np.float32 if "scale" in name or name == "logits" else kind), name


@pytest.mark.parametrize("labels", [IDS, ROWS, ROWS.bool()], ids=["one label", "several", "flags"])
@pytest.mark.parametrize(
    "conditions", [["label", "predicted", 1], ["predicted"], [2, "predicted", "label"], ["predicted", 0]], ids=str
)
def test_every_condition_explains_what_it_says_and_no_sample_twice_for_the_same_target(images, labels, conditions):
    network, x = images
    explainer = Counting(network, x)
    plan = make_plan(network, x, {str(condition): condition for condition in conditions}, relevance_pooling=["max"])
    arrays = explain_batch(explainer, x, labels, plan)
    logits = network(x).detach()
    wanted = {}
    for condition in conditions:
        if condition == "label":
            weights = labels.float() if labels.ndim == 2 else torch.eye(3)[labels]
        elif condition == "predicted":
            weights = (logits > 0).float() if labels.ndim == 2 else torch.eye(3)[logits.argmax(1)]
        else:
            weights = torch.eye(3)[[condition] * 6]
        wanted[condition] = weights
        found = explainer.explainer.attribute(x, weights, layers=["relu"])
        scales = arrays[f"heatmap_scales/{condition}"]
        np.testing.assert_allclose(arrays[f"heatmaps/{condition}"] * scales[:, None, None], found.heatmap, **EXACT)
        sums = found.relevances["relu"].sum((2, 3))
        restored = (
            arrays[f"layers/relu/relevance_{condition}"] * arrays[f"layers/relu/relevance_scale_{condition}"][:, None]
        )
        np.testing.assert_allclose(restored, sums, **EXACT)
    # With several labels and nothing but "predicted", the largest logit is explained before the signs are known.
    first = [] if any(condition != "predicted" for condition in conditions) else [torch.eye(3)[logits.argmax(1)]]
    different = sum(len({tuple(w[row].tolist()) for w in [*first, *wanted.values()]}) for row in range(6))
    assert sum(explainer.counts) == different


def test_a_sample_without_labels_gets_no_relevance(images):
    network, x = images
    arrays = explain_batch(Explainer(network, x[:2], COMPOSITE), x, ROWS, make_plan(network, x, {"label": "label"}))
    empty = ROWS.sum(1) == 0
    assert (arrays["heatmap_scales/label"] == 0).tolist() == empty.tolist()
    assert not arrays["heatmaps/label"][empty].any() and not arrays["layers/relu/relevance_label"][empty].any()
    assert arrays["labels"].tolist() == ROWS.tolist()


def test_what_half_precision_cannot_hold_is_stored_as_its_largest_value(images):
    network, x = images
    with torch.no_grad():
        network.convolution.weight *= 1e7
    plan = make_plan(network, x, {"label": "label"}, dtype="float16")
    found = explain_batch(Explainer(network, x[:2], COMPOSITE), x, IDS, plan)["layers/relu/activation_max"]
    assert found.max() == np.finfo(np.float16).max and np.isfinite(found).all()


def test_targets_are_taken_from_whatever_is_known_row_by_row():
    first = torch.eye(3)[[0, 1, 2, 0]]
    second = torch.eye(3)[[1, 1, 0, 2]]
    known = [
        (first, {("", "map"): torch.tensor([[0.0], [1], [2], [3]])}),
        (second, {("", "map"): torch.tensor([[10.0], [11], [12], [13]])}),
    ]
    asked = []

    def explain(rows):
        asked.extend(rows.tolist())
        return {("", "map"): torch.tensor([[99.0]])}

    found = reuse(known, torch.eye(3)[[0, 2, 0, 2]], explain)
    assert found["", "map"].flatten().tolist() == [0, 99, 12, 13]
    assert asked == [1]
    assert known[0][1]["", "map"].flatten().tolist() == [0, 1, 2, 3], "what is known stays as it is"
