"""LRP-Block against numbers of the published implementation, with its two defects repaired (see their README)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from isnet_numbers import numbers, residual_network, tiny_network, with_reference_weights
from isnet_numbers import relative as off
from torch import nn
from torch.nn import functional as F

from pipeline.attribution import block_handlers
from pipeline.attribution.block import BlockMap, class_seed, dual_maps, lrp_block, selective_seed
from pipeline.attribution.maps import Maps
from pipeline.mitigate.heatmap_loss import heatmap_loss

SUFFIX = "_e1e-2_Zb"
ROUNDING = 5e-5
"""Of the largest value, in deep networks. The reference itself rounds by 9e-5, compared with double precision."""


def dense_network() -> nn.Module:
    """torchvision's graph, with the ReLU that the reference has after the convolution of each transition."""
    from torchvision.models import densenet121

    network = densenet121(num_classes=4)
    for at in (1, 2, 3):
        transition = network.features.get_submodule(f"transition{at}")
        pool = transition.pool
        del transition.pool
        transition.add_module("rectify", nn.ReLU())
        transition.add_module("pool", pool)
    return with_reference_weights(network)


def kinds(classes: int) -> dict[str, list[BlockMap]]:
    return {
        "block_e_multi": [BlockMap("epsilon", class_seed(index)) for index in range(classes)],
        "block_dual": list(dual_maps()),
        "block_selective": [BlockMap("epsilon", selective_seed())],
    }


STAGES = {
    "resnet18": {f"layer{at}": f"LRPlayer{at + 1}" for at in (1, 2, 3)} | {"layer4": "LRPClassifier"},
    "densenet121": {f"features.transition{at}.relu": f"LRPTransition{at}" for at in (1, 2, 3)}
    | {"features.norm5": "LRPFinalLayers"},
    "tiny_cnn": {},
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["tiny_cnn", "resnet18", "densenet121"])
def test_maps_agree_with_the_reference(name):
    deep = name != "tiny_cnn"
    stored = numbers(f"{name}_block_fixed.npz" if deep else f"{name}.npz")
    network = {"tiny_cnn": tiny_network, "resnet18": residual_network, "densenet121": dense_network}[name]()
    x = torch.from_numpy(stored["x"])
    for kind, maps in kinds(stored["logits"].shape[1]).items():
        tag = kind.replace("dual", "dual_z+e") + SUFFIX
        found = lrp_block(network, x, maps, layers=list(STAGES[name]))
        assert off(found.logits, stored["logits"]) <= 1e-5
        assert off(found.relevance, stored[tag]) <= (ROUNDING if deep else 1e-5), kind
        for layer, stage in STAGES[name].items():
            assert off(found.relevances[layer].sum((2, 3, 4)), stored[f"{tag}/lds/{stage}/sum"]) <= 1e-5, (kind, stage)


def step(network: nn.Module, numbers: Callable[[str], np.ndarray], maps: list[BlockMap], cuts) -> tuple[Maps, list]:
    """One training step of the reference, with its constant biases; return the maps and CE, heatmap, total loss."""
    x, mask = torch.from_numpy(numbers("x")), torch.from_numpy(numbers("mask"))
    found = lrp_block(network, x, maps, create_graph=True, constant_biases=True)
    heat = heatmap_loss(found.relevance, mask, cut=cuts[0], cut2=cuts[1], foreground="l2")
    label = F.cross_entropy(found.logits, torch.from_numpy(numbers("labels")).long())
    total = 0.3 * label + 0.7 * heat
    total.backward()
    return found, [float(each.detach()) for each in (label, heat, total)]


@pytest.mark.real_data
@pytest.mark.parametrize("kind", ["block_e_multi", "block_dual", "block_selective"])
def test_gradients_of_a_training_step_agree_with_the_reference(kind):
    stored = numbers("training_step.npz")
    network = tiny_network()
    found, losses = step(network, lambda key: stored[f"tiny/{key}"], kinds(5)[kind], (0.5, 12.5))
    assert off(found.relevance, stored[f"tiny/{kind}/heatmap"]) <= 1e-5
    assert losses == pytest.approx(stored[f"tiny/{kind}/losses_ce_heat_total"], rel=1e-5)
    for name, parameter in network.named_parameters():
        expected = stored[f"tiny/{kind}/grad/{name}"]
        assert off(parameter.grad.flatten()[: expected.size].view(expected.shape), expected) <= 1e-5, name


def published_statistics(given: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Batch statistics as published: without a gradient, and the variance unbiased, which BatchNorm's own is not."""
    output, mean, inverse = OWN_STATISTICS(given)
    if given["training"]:
        variance, mean = torch.var_mean(given["input"].detach(), (0, 2, 3), unbiased=True)
        inverse = torch.rsqrt(variance + given["eps"])
    return output, mean, inverse


OWN_STATISTICS = block_handlers.normalized


@pytest.mark.real_data
@pytest.mark.parametrize("mode", ["evalBN", "trainBN"])
@pytest.mark.parametrize("kind", ["block_e_multi", "block_dual", "block_selective"])
def test_a_training_step_of_a_residual_network_agrees_with_the_reference(kind, mode, monkeypatch):
    stored = numbers("training_step_fixedblock.npz")
    network = residual_network().train(mode == "trainBN")
    monkeypatch.setattr(block_handlers, "normalized", published_statistics)
    found, losses = step(network, lambda key: stored[f"r18/{key}"], kinds(4)[kind], (5.0, 500.0))

    def expected(key: str) -> np.ndarray:
        return stored[f"r18/{mode}/{kind}/{key}"]

    heatmap = expected("heatmap")
    assert off(found.relevance[:1, : heatmap.shape[1]], heatmap) <= ROUNDING
    assert off(found.relevance.abs().sum((2, 3, 4)), expected("heat_abssum")) <= 1e-5
    assert losses == pytest.approx(expected("losses_ce_heat_total"), rel=1e-5)
    for name, parameter in network.named_parameters():
        assert float(parameter.grad.norm()) == pytest.approx(float(expected(f"gnorm/{name}")), rel=1e-4), name


@pytest.mark.real_data
def test_with_the_statistics_that_batch_norm_used_maps_differ_a_little_from_the_published_ones():
    stored = numbers("training_step_fixedblock.npz")
    found = lrp_block(residual_network().train(), torch.from_numpy(stored["r18/x"]), kinds(4)["block_dual"])
    difference = off(found.relevance[:1], stored["r18/trainBN/block_dual/heatmap"])
    assert 1e-3 < difference < 0.1
    sums = off(found.relevance.abs().sum((2, 3, 4)), stored["r18/trainBN/block_dual/heat_abssum"])
    assert 1e-4 < sums < 1e-2
