from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from pipeline.concepts.cav import Cav, fit_cav
from pipeline.concepts.localization import binarize, blur, localization_quality
from pipeline.config.localize import LocalizationKind
from pipeline.localize.methods import METHODS, Neurons

FEW = {"shap_samples": 128}
LEAST_IOU = {
    "concept_relevance": 0.5,
    "gradient_x_activation": 0.5,
    "neuron_relevance": 0.5,
    "concept_map": 0.3,
    "shap": 0.35,
}
CHANCE_IOU = 16 / 256


def overlaps(heatmaps: np.ndarray, truth: np.ndarray) -> np.ndarray:
    nothing = np.zeros(truth.shape[1:], dtype=bool)
    masks = np.stack([nothing if mask is None else mask for mask in map(binarize, blur(heatmaps, 0.04))])
    return (masks & truth).sum((1, 2)) / (masks | truth).sum((1, 2))


def strongest_neuron(cav: Cav) -> Neurons:
    return Neurons(cav.layer, (int(np.argmax(cav.direction)),), "f1")


def test_every_configured_method_is_there():
    assert set(METHODS) == set(get_args(LocalizationKind))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_finds_the_planted_square(world, concept, method_for, name):
    cav = concept()
    heatmaps = method_for(name, strongest_neuron(cav), **FEW).heatmaps(world.x, cav)
    planted, truth = heatmaps[world.planted], world.truth[world.planted]
    strongest = planted.reshape(len(planted), -1).argmax(1)
    assert truth.reshape(len(truth), -1)[np.arange(len(truth)), strongest].mean() > 0.9
    assert overlaps(planted, truth).mean() > LEAST_IOU[name] > 4 * CHANCE_IOU
    assert localization_quality(planted[:24], heatmaps[~world.planted]) > 0.5


@pytest.mark.parametrize("pooling", ["mean", "full"])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "neuron_relevance"])
def test_the_square_is_found_by_directions_over_means_and_over_all_positions(world, concept, method_for, name, pooling):
    cav = concept(pooling=pooling)
    heatmaps = method_for(name, **FEW).heatmaps(world.x[world.planted][:8], cav)
    assert overlaps(heatmaps, world.truth[world.planted][:8]).mean() > 0.35


@pytest.mark.parametrize("name", METHODS)
def test_heatmaps_are_non_negative_and_have_the_shape_of_the_input(pixelwise, method_for, name):
    x, explainer = pixelwise
    cav = Cav(np.array([0.6, -0.8]), 0.0, "pattern", np.array([0.5, 0.1]), "tint")
    method = method_for(name, Neurons("tint", (0,), "f1"), explainer, shap_segments=2, shap_samples=16)
    heatmaps = method.heatmaps(x, cav)
    assert heatmaps.shape == (3, *x.shape[2:]) and heatmaps.min() >= 0 and (heatmaps.sum(axis=1) > 0).any()


@pytest.mark.parametrize("name", METHODS)
def test_a_sample_does_not_depend_on_its_batch_and_the_model_is_left_alone(world, concept, method_for, name):
    cav = concept()
    model = world.explainer.model.train()
    method = method_for(name, strongest_neuron(cav), **FEW)
    together = method.heatmaps(world.x[:6], cav)
    alone = np.concatenate([method.heatmaps(each[None], cav) for each in world.x[:6]])
    np.testing.assert_allclose(alone, together, atol=1e-6)
    assert model.training and not any(module._forward_hooks for module in model.modules())
    model.eval()


@pytest.mark.parametrize("name", METHODS)
def test_tokens_are_localized_over_the_image(tokens, method_for, name):
    x, explainer = tokens
    kept = []
    handle = explainer.model.embed.register_forward_hook(lambda *call: kept.append(call[2]))
    with torch.no_grad():
        explainer.model(x)
    handle.remove()
    cav = fit_cav(kept[0].amax(1).numpy(), np.arange(8) < 4, layer="embed")
    method = method_for(name, strongest_neuron(cav), explainer, shap_segments=4, shap_samples=128)
    heatmaps = method.heatmaps(x[:4], cav)
    patches = heatmaps.reshape(4, 4, 4, 4, 4).sum((2, 4))
    assert (patches.reshape(4, -1).argmax(1) == 2 * 4 + 1).all()
