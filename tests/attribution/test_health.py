from __future__ import annotations

import math

import pytest
import torch
import torchvision
from torch import nn

from pipeline.attribution import COMPOSITES, Explainer, health
from pipeline.models.build import AuditModel, Normalize
from pipeline.models.small_cnn import small_cnn
from pipeline.workspace.records import Health


@pytest.mark.parametrize("composite", COMPOSITES)
def test_a_small_network_is_healthy_at_every_layer(composite, scrambled, pixels):
    model = AuditModel(scrambled(small_cnn(4, 3, width=8)), Normalize((0.5,), (0.5,)), "local:small_cnn")
    record = health(model, pixels(6, 3, 16, 16), composite=composite, arch=model.arch)
    assert record.healthy and record.finite and record.warning == ""
    assert record.conservation == pytest.approx(1, abs=0.01)
    assert {layer.layer for layer in record.layers} >= {"network.conv1", "network.relu2", "network.linear"}
    assert all(layer.conservation == pytest.approx(1, abs=0.01) and layer.finite for layer in record.layers)
    assert (record.composite, record.arch) == (composite, "local:small_cnn")


def test_a_residual_network_is_healthy_where_all_paths_cross(scrambled, pixels):
    model = scrambled(torchvision.models.resnet18(num_classes=3))
    record = health(model, pixels(4, 3, 32, 32))
    assert record.healthy and record.conservation == pytest.approx(1, abs=0.01)
    found = {layer.layer: layer.conservation for layer in record.layers}
    for block in ("relu", "layer1.0", "layer2.0", "layer3.1", "layer4.1"):
        assert found[block] == pytest.approx(1, abs=0.01)


def test_the_bias_share_is_what_does_not_reach_the_pixels(plain, pixels):
    model, x = plain(), pixels(5, 3, 12, 12)
    found = Explainer(model, x, "epsilon_plus_flat").attribute(x)
    share = 1 - found.relevance.flatten(1).sum(1) / found.logits.max(1).values
    assert health(model, x).bias_share == pytest.approx(float(share.median()), abs=1e-4)
    for layer in model:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.zeros_(layer.bias)
    assert health(model, x).bias_share == pytest.approx(0, abs=1e-3)


def gated(functional) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), functional(lambda x: x * torch.sigmoid(4 * x)), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(32, 4),
    )  # fmt: skip


def test_depthwise_convolutions_are_healthy(scrambled, pixels):
    record = health(scrambled(torchvision.models.mobilenet_v2(num_classes=4)), pixels(4, 3, 32, 32))
    assert record.healthy and record.conservation == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", ["gate", "mobilenet_v3_small"])
def test_relevance_that_gets_lost_is_reported_with_a_warning(name, scrambled, functional, pixels):
    model = gated(functional) if name == "gate" else torchvision.models.mobilenet_v3_small(num_classes=4)
    record = health(scrambled(model), pixels(4, 3, 32, 32), arch=name)
    assert not record.healthy and record.finite
    assert abs(record.conservation - 1) > 0.05
    assert "epsilon_plus_flat is not conserved" in record.warning and f"{record.conservation:.3g}" in record.warning


def test_relevance_that_is_not_finite_is_reported(plain, pixels):
    model = plain()
    model[3].weight.data[0, 0, 0, 0] = math.inf
    record = health(model, pixels(4, 3, 12, 12))
    assert not record.healthy and not record.finite
    assert "not finite" in record.warning
    assert Health.model_validate_json(record.model_dump_json()).finite is False


def test_the_model_is_not_changed_by_its_examination(residual, pixels, untouched):
    model = residual().train()
    untouched(model, lambda: health(model, pixels(3, 3, 13, 13)))
