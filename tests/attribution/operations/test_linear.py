from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.attribution import Explainer
from pipeline.attribution.composites import COMPOSITES


def marking(name: str, log: list[str]):
    """A rule that says when it is used, and passes nothing."""

    def rule(operation, relevance):
        log.append(name)
        return torch.ones_like(operation.x)

    return rule


def rules_used(network: nn.Module, x: torch.Tensor, rules: tuple[str, ...] = (), **options) -> list[str]:
    """Names of the rules on the way from the input on."""
    log: list[str] = []
    composite = replace(
        COMPOSITES["epsilon"], convolution=marking("convolution", log), linear=marking("linear", log),
        first=marking("first", log), depthwise=marking("depthwise", log),
        overrides={name: marking(name, log) for name in rules},
    )  # fmt: skip
    Explainer(network, x, composite, **options).attribute(x)
    return log[::-1]


class Twice(nn.Module):
    """A stem of two branches, and a linear layer that runs twice."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.linear = nn.Conv2d(2, 4, 3), nn.Conv2d(2, 4, 3), nn.Linear(144, 144)

    def forward(self, x):
        x = (self.left(x) + self.right(x)).flatten(1)
        return self.linear(self.linear(x))


def test_every_kind_of_linear_map_has_its_rule(pixels):
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(8, 8, 1, groups=1),
        nn.ConvTranspose2d(8, 4, 2), nn.Flatten(), nn.Linear(36, 3),
    )  # fmt: skip
    x = pixels(2, 2, 8, 8)
    expected = ["first", "depthwise", "convolution", "convolution", "convolution", "linear"]
    assert rules_used(network, x) == expected
    assert rules_used(network, x, ("0", "3")) == ["0", "depthwise", "convolution", "3", "convolution", "linear"]
    assert rules_used(network, x, ("[1-3]", "2")) == ["first", "[1-3]", "2", "[1-3]", "convolution", "linear"]
    assert rules_used(network, x, ("2", "[1-3]")) == ["first", *["[1-3]"] * 3, "convolution", "linear"]


def test_every_branch_of_a_stem_is_a_first_layer_and_a_layer_may_run_twice(pixels):
    assert rules_used(Twice(), pixels(2, 2, 8, 8)) == ["first", "first", "linear", "linear"]
    assert rules_used(Twice(), pixels(2, 2, 8, 8), ("linear",)) == ["first", "first", "linear", "linear"]


def test_depth_counts_linear_maps_only_and_normalisation_of_pixels_is_none():
    from pipeline.models.build import AuditModel, Normalize

    network = nn.Sequential(nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    model = AuditModel(network, Normalize((0.5, 0.2), (0.3, 0.4)))
    assert rules_used(model, torch.rand(2, 2, 8, 8)) == ["first", "linear"]


def test_a_matrix_product_before_the_first_layer_makes_that_layer_the_second(functional, pixels):
    matrix = torch.eye(3)
    network = nn.Sequential(functional(lambda x: x @ matrix), nn.Linear(3, 2), nn.Flatten())
    assert rules_used(network, pixels(2, 4, 3)) == ["linear"]


FUNCTIONS = {
    "conv2d by position": (lambda x, w, b: F.conv2d(x, w, b, 2, 1), {"stride": 2, "padding": 1}),
    "conv2d by keyword": (
        lambda x, w, b: torch.conv2d(input=x, weight=w, bias=b, stride=(2, 1), dilation=2),
        {"stride": (2, 1), "dilation": 2},
    ),
    "conv2d without bias": (lambda x, w, b: F.conv2d(x, w, padding="same"), {"padding": "same"}),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("composite", COMPOSITES)
def test_functions_are_read_like_modules(name, composite, functional, scrambled, pixels):
    function, options = FUNCTIONS[name]
    layer = scrambled(nn.Conv2d(2, 3, 3, bias="without bias" not in name, **options))
    x = pixels(2, 2, 6, 6)

    def relevance(first):
        return Explainer(nn.Sequential(first, nn.Flatten()), x, composite).attribute(x, 0).relevance

    assert torch.allclose(
        relevance(functional(lambda x: function(x, layer.weight, layer.bias))), relevance(layer), atol=1e-7
    )


@pytest.mark.parametrize("mode", ["reflect", "circular", "replicate"])
def test_padding_with_pixels_gives_their_relevance_back_to_them(mode, passed, signed):
    layer = nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode, bias=False).double()
    x = signed(2, 2, 5, 5)
    found = passed(layer, x)
    assert torch.allclose(found.output, layer(x))
    assert found.total()[1] == pytest.approx(found.total()[0], rel=1e-3)


@pytest.mark.parametrize("transposes", [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d])
def test_transposed_convolutions_know_their_output_size(transposes, passed, signed):
    layer = transposes(3, 4, 3, stride=2, output_padding=1, bias=False).double()
    x = signed(2, 3, *[3] * (layer.weight.ndim - 2))
    found = passed(layer, x)
    assert torch.allclose(found.output, layer(x)) and found.relevance.shape == x.shape
    reached = found.output != 0  # the added edge sees nothing
    assert float(found.relevance.sum()) == pytest.approx(float(found.start[0][reached].sum()), rel=1e-3)


def test_layers_of_constants_are_constants(passed, signed):
    layer, constant = nn.Conv2d(2, 3, 3, padding=1).double(), signed(2, 2, 4, 4, seed=1)
    found = passed(lambda x: x + layer(constant), signed(2, 3, 4, 4), keeps_biases=False)
    assert torch.allclose(found.relevance.flatten(1).sum(1), found.start[0].flatten(1).sum(1), rtol=1e-4)


def test_tokens_of_any_number_of_axes_go_through_a_linear_layer(passed, signed):
    layer = nn.Linear(3, 2, bias=False).double()
    x = signed(2, 4, 5, 3)
    found = passed(layer, x)
    alone = passed(layer, x.view(-1, 3))
    assert torch.allclose(found.relevance.view(-1, 3), alone.relevance)
