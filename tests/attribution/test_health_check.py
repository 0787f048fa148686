from __future__ import annotations

import math

import pytest
import torch
import torchvision
from torch import nn

from pipeline.attribution import COMPOSITES, Explainer, health
from pipeline.attribution.health_check import SMALLEST_LOGIT, TOLERANCE, layers_on_the_way
from pipeline.models.build import AuditModel, Normalize, forbid_in_place
from pipeline.models.modes import evaluation_mode
from pipeline.models.small_cnn import small_cnn
from pipeline.models.trace import trace_layers
from pipeline.workspace.records import Health


class WithPositions(nn.Module):
    """Convolution, and a module of its own that adds to every position what does not depend on the pixels."""

    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.rand(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)))

        def forward(self, x):
            return self.table * 2

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.positions = self.Positions()
        self.relu = nn.ReLU()
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))

    def forward(self, x):
        features = self.conv(x)
        return self.head(self.relu(features + self.positions(features)))


class InWindows(nn.Module):
    """A linear layer over windows that stand where samples stand."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2, stride=2)
        self.inner = nn.Linear(16, 6)
        self.head = nn.Linear(24, 3)

    def forward(self, x):
        features = self.conv(x)
        windows = features.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).flatten(3)
        return self.head(self.inner(windows.flatten(0, 2)).relu().reshape(len(x), -1))


def with_function(functional, function) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), functional(function), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)
    )


def losing(share: float, sample: int | None = None):
    """Return a rule that loses a share of the relevance, of one sample or of all."""

    def rule(operation, relevance):
        kept = torch.ones(len(relevance))
        kept[slice(None) if sample is None else sample] = 1 - share
        shared = COMPOSITES["epsilon_plus"].linear(operation, relevance)
        return shared * kept.view(-1, *[1] * (shared.ndim - 1))

    return rule


# Healthy networks


@pytest.mark.parametrize("composite", COMPOSITES)
def test_a_small_network_is_healthy_at_every_layer(composite, scrambled, pixels):
    model = AuditModel(scrambled(small_cnn(4, 3, width=8)), Normalize((0.5,), (0.5,)), "local:small_cnn")
    record = health(model, pixels(6, 3, 16, 16), composite=composite, arch=model.arch)
    assert record.healthy and record.finite and record.warning == "" and record.without_rule == []
    assert record.conservation == pytest.approx(1, abs=0.01)
    assert record.worst_sample == pytest.approx(1, abs=0.02) and record.skipped == 0
    assert {layer.layer for layer in record.layers} >= {"network.conv1", "network.relu2", "network.linear"}
    assert all(layer.conservation == pytest.approx(1, abs=0.01) and layer.finite for layer in record.layers)
    assert (record.composite, record.arch) == (composite, "local:small_cnn")


def test_a_residual_network_is_healthy_where_all_paths_cross(scrambled, pixels):
    model = scrambled(torchvision.models.resnet18(num_classes=3))
    forbid_in_place(model)
    record = health(model, pixels(4, 3, 32, 32))
    assert record.healthy and record.conservation == pytest.approx(1, abs=0.01)
    found = {layer.layer: layer for layer in record.layers}
    for block in ("relu", "maxpool", "layer1.0", "layer2.0", "layer3.1", "layer4.1"):
        assert found[block].on_all_paths and found[block].conservation == pytest.approx(1, abs=0.01)
    beside = found["layer2.0.downsample.0"]
    assert not beside.on_all_paths and abs(beside.conservation - 1) > TOLERANCE
    assert found[record.weakest_layer].on_all_paths


@pytest.mark.parametrize(
    "network",
    [
        lambda: torchvision.models.mobilenet_v3_small(num_classes=4),
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), Gate(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)),
    ],
    ids=["squeeze and excitation", "gate"],
)
def test_gates_are_healthy(network, scrambled, pixels):
    record = health(scrambled(network()), pixels(4, 3, 32, 32))
    assert record.healthy and record.conservation == pytest.approx(1, abs=0.02)


class Gate(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(4 * x)


def test_depthwise_convolutions_are_healthy(scrambled, pixels):
    record = health(scrambled(torchvision.models.mobilenet_v2(num_classes=4)), pixels(4, 3, 32, 32))
    assert record.healthy and record.conservation == pytest.approx(1, abs=0.01)


def test_the_bias_share_is_what_does_not_reach_the_pixels(plain, pixels):
    model, x = plain(), pixels(5, 3, 12, 12)
    found = Explainer(model, x, "epsilon_plus_flat").attribute(x)
    share = 1 - found.relevance.flatten(1).sum(1) / found.logits.max(1).values
    assert health(model, x).bias_share == pytest.approx(float(share.median()), abs=1e-4)
    for layer in model:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.zeros_(layer.bias)
    assert health(model, x).bias_share == pytest.approx(0, abs=1e-3)


# Layers


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_0", "shufflenet_v2_x0_5"])
def test_a_layer_is_on_all_paths_if_the_logits_do_not_depend_on_the_pixels_without_it(name, scrambled, pixels):
    model = scrambled(torchvision.models.get_model(name, num_classes=3))
    x = pixels(1, 3, 32, 32)
    layers = [layer.layer for layer in health(model, x).layers]
    layers = layers[:: max(1, len(layers) // 12)]
    found = layers_on_the_way(model, x, layers)
    assert found == {layer: not depends_without(model, x, layer) for layer in layers}
    assert len(set(found.values())) == 2


def depends_without(model: nn.Module, x: torch.Tensor, layer: str) -> bool:
    handle = model.get_submodule(layer).register_forward_hook(lambda module, inputs, output: output.detach())
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        with evaluation_mode(model), torch.enable_grad():
            return model(x.clone().requires_grad_() * 1).requires_grad
    finally:
        handle.remove()
        for parameter in parameters:
            parameter.requires_grad_(True)


def test_a_layer_that_does_not_depend_on_the_pixels_takes_no_relevance(scrambled, pixels):
    model, x = scrambled(WithPositions()), pixels(3, 3, 8, 8)
    assert "positions" in {layer.name for layer in trace_layers(model, x)}
    record = health(model, x)
    assert record.healthy and record.conservation == pytest.approx(1, abs=0.01)
    assert {layer.layer for layer in record.layers} >= {"conv", "relu"}
    assert "positions" not in {layer.layer for layer in record.layers}


def test_layers_with_windows_in_place_of_samples_are_left_out(scrambled, pixels):
    record = health(scrambled(InWindows()), pixels(3, 3, 8, 8))
    names = {layer.layer for layer in record.layers}
    assert {"conv", "head"} <= names and "inner" not in names


# What is wrong, and where


@pytest.mark.parametrize("of", [0.1, -0.1])
def test_relevance_that_gets_lost_or_made_is_reported_with_the_place(of, plain, pixels):
    record = health(plain(), pixels(5, 3, 12, 12), rules={"7": losing(of)})
    assert not record.healthy and record.finite
    assert record.conservation == pytest.approx(1 - of, abs=0.01)
    assert "epsilon_plus_flat is not conserved" in record.warning and f"{record.conservation:.3g}" in record.warning
    assert "from layer '6' on" in record.warning  # what layer 7 takes
    found = {layer.layer: layer.conservation for layer in record.layers}
    assert found["8"] == pytest.approx(1, abs=1e-3) and found["6"] == pytest.approx(1 - of, abs=0.01)
    assert abs(found[record.weakest_layer] - 1) == max(abs(value - 1) for value in found.values())


def test_the_place_is_sought_where_all_paths_cross(scrambled, pixels):
    model = scrambled(torchvision.models.resnet18(num_classes=3))
    forbid_in_place(model)
    record = health(model, pixels(3, 3, 32, 32), rules={"layer2.0.*": losing(0.5)})
    assert not record.healthy
    assert "from layer 'layer1.1' on" in record.warning


def test_the_bias_share_is_that_of_the_rules(plain, pixels):
    model, x, rules = plain(), pixels(5, 3, 12, 12), {"7": losing(0.1)}
    found = Explainer(model, x, rules=rules).attribute(x)
    share = 1 - found.relevance.flatten(1).sum(1) / found.logits.max(1).values
    assert health(model, x, rules=rules).bias_share == pytest.approx(float(share.median()), abs=1e-4)


def test_little_loss_is_within_tolerance(plain, pixels):
    record = health(plain(), pixels(5, 3, 12, 12), rules={"7": losing(0.03)})
    assert record.healthy and record.conservation == pytest.approx(0.97, abs=0.01)


def test_the_median_stands_for_the_samples_and_the_worst_is_named(plain, pixels):
    record = health(plain(), pixels(5, 3, 12, 12), rules={"7": losing(0.4, sample=2)})
    assert record.healthy and record.conservation == pytest.approx(1, abs=0.01)
    assert record.worst_sample == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize(
    ("function", "healthy"),
    [(lambda x: torch.special.i0e(x) + 1, False), (lambda x: x * torch.special.i0e(x), False)],
    ids=["on the way", "as a gate"],
)
def test_functions_without_a_rule_are_named(function, healthy, functional, scrambled, pixels):
    record = health(scrambled(with_function(functional, function)), pixels(4, 3, 16, 16))
    (name,) = record.without_rule
    assert name.endswith("i0e")
    assert f"No rule for {name}" in record.warning
    assert record.healthy == healthy


def test_a_function_without_a_rule_makes_a_warning_even_where_relevance_is_conserved(functional, scrambled, pixels):
    model = with_function(functional, lambda x: torch.cummax(x, 1).values)
    record = health(scrambled(model), pixels(4, 3, 16, 16))
    assert record.healthy and record.conservation == pytest.approx(1, abs=0.01)
    assert "No rule for" in record.warning and "cummax" in record.warning


def test_functions_of_constants_need_no_rule(functional, scrambled, pixels):
    model = with_function(functional, lambda x: x * torch.special.i0e(torch.ones(1)))
    assert health(scrambled(model), pixels(4, 3, 16, 16)).without_rule == []


def test_relevance_that_is_not_finite_is_reported(plain, pixels):
    def broken(operation, relevance):
        return torch.full_like(operation.x, math.nan)

    record = health(plain(), pixels(4, 3, 12, 12), rules={"3": broken})
    assert not record.healthy and not record.finite
    assert "epsilon_plus_flat is not finite" in record.warning
    finite = {layer.layer: layer.finite for layer in record.layers}
    assert finite["4"] and not finite["2"]


@pytest.mark.parametrize("with_constants", [False, True])
def test_relevance_must_be_finite_with_constants_and_without(with_constants, plain, pixels):
    def broken(operation, relevance):
        shared = losing(0)(operation, relevance)
        return shared * math.inf if operation.keeps_biases == with_constants else shared

    record = health(plain(), pixels(4, 3, 12, 12), rules={"7": broken})
    assert math.isfinite(record.conservation) == with_constants
    assert not record.healthy and not record.finite
    assert "is not finite" in record.warning


@pytest.mark.parametrize(("times", "noisy"), [(-20, True), (20, True), (2, False)])
def test_relevance_of_many_times_the_logit_is_a_warning(times, noisy, plain, pixels):
    def grown(operation, relevance):
        shared = losing(0)(operation, relevance)
        return times * shared if operation.keeps_biases else shared

    model, x = plain(), pixels(4, 3, 12, 12)
    usual = health(model, x)
    assert usual.warning == ""
    record = health(model, x, rules={"9": grown})
    shown = times * (1 - usual.bias_share)
    assert record.healthy and 1 - record.bias_share == pytest.approx(shown, rel=0.01)
    assert ("times the logit" in record.warning) == noisy
    assert (f"sums to {1 - record.bias_share:.3g} times" in record.warning) == noisy


def test_a_model_with_logits_that_are_not_finite_is_reported(plain, pixels):
    model = plain()
    model[3].weight.data[0, 0, 0, 0] = math.inf
    record = health(model, pixels(4, 3, 12, 12))
    assert not record.healthy and not record.finite
    assert "not finite" in record.warning
    assert Health.model_validate_json(record.model_dump_json()).finite is False


# Logits near zero


def without_biases(model: nn.Module) -> nn.Module:
    for layer in model:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.zeros_(layer.bias)
    return model


def test_samples_with_a_logit_near_zero_are_left_out(plain, pixels):
    model, x = without_biases(plain()), pixels(4, 3, 12, 12)
    x[1], x[3] = 0, 0.004 * x[3]  # without biases, logits grow with the pixels
    assert model(x)[3].max().abs() > SMALLEST_LOGIT
    record = health(model, x)
    assert record.skipped == 2
    assert record.healthy and record.conservation == pytest.approx(1, abs=1e-3)
    assert record.worst_sample == pytest.approx(1, abs=1e-3)
    alone = health(model, x[::2])
    assert alone.skipped == 0 and alone.conservation == pytest.approx(record.conservation, abs=1e-6)


def test_where_every_logit_is_near_zero_nothing_is_claimed(plain, pixels):
    record = health(without_biases(plain()), 1e-6 * pixels(3, 3, 12, 12))
    assert record.skipped == 3 and record.worst_sample is None
    assert math.isnan(record.conservation) and not record.healthy and record.finite
    assert "cannot be measured" in record.warning and "near 0" in record.warning
    assert Health.model_validate_json(record.model_dump_json()).worst_sample is None


def test_the_model_is_not_changed_by_its_examination(residual, pixels, untouched):
    model = residual().train()
    untouched(model, lambda: health(model, pixels(3, 3, 13, 13)))
