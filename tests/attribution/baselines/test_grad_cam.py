from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.attribution.baselines import grad_cam
from pipeline.attribution.baselines.grad_cam import channels_first, last_map, token_grid


@pytest.fixture
def by_hand(functional) -> nn.Module:
    """Two channels: the input, and 1 less the input; a logit that weighs both and each place, on 2 x 2 positions."""
    network = nn.Sequential(nn.Conv2d(1, 2, 1), functional(lambda a: (a * PLACES).flatten(1).sum(1, keepdim=True)))
    network[0].weight.data = torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1)
    network[0].bias.data = torch.tensor([0.0, 1.0])
    return network


PLACES = torch.tensor([[[1.0, 2.0], [3.0, 6.0]], [[-4.0, 0.0], [0.0, 0.0]]])
"""Mean gradient 3 of the first channel, -1 of the second."""


def test_by_hand_on_a_tiny_network(by_hand):
    x = torch.tensor([[[[0.0, 0.5], [1.0, 0.25]]]])
    expected = torch.tensor([[0.0, 3 * 0.5 - 0.5], [3.0, 0.0]])  # 3 a - (1 - a), at least 0
    found = grad_cam(by_hand, x, 0, layer="0")
    assert torch.allclose(found.heatmap[0], expected)
    assert found.logits.item() == pytest.approx(float((PLACES * torch.cat([x[0], 1 - x[0]])).sum()))


def test_the_map_is_enlarged_linearly_and_shared_by_the_channels(functional, scrambled, pixels):
    """Positions 2 x 2 of 4 x 4 pixels; the logit is the mean of the map, so all weights are equal."""
    network = scrambled(nn.Sequential(nn.Conv2d(3, 1, 2, stride=2), functional(lambda a: a.mean((2, 3)))))
    x = pixels(2, 3, 4, 4) - 0.5
    with torch.no_grad():
        small = F.relu(network[0](x) / 4)[:, 0]
    assert small.max() > 0
    side = torch.tensor([[1.0, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])  # distances of the pixels' centres
    found = grad_cam(network, x, 0)
    assert torch.allclose(found.heatmap, side @ small @ side.T, atol=1e-6)
    assert torch.equal(found.relevance[:, 0], found.relevance[:, 2])


def test_signals_are_enlarged_over_time(functional, scrambled, pixels):
    network = scrambled(nn.Sequential(nn.Conv1d(2, 1, 2, stride=2), functional(lambda a: -a.mean(2))))
    x = pixels(5, 2, 4) - 0.5
    with torch.no_grad():
        small = F.relu(-network[0](x) / 2)[:, 0]
    side = torch.tensor([[1.0, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    assert small.max() > 0
    assert torch.allclose(grad_cam(network, x, 0).heatmap, small @ side.T, atol=1e-6)


class Tokens(nn.Module):
    """Patches of 2 x 2 pixels with `prefix` tokens before them; their mean is classified."""

    def __init__(self, prefix: int):
        super().__init__()
        self.patches, self.norm, self.head = nn.Conv2d(3, 8, 2, stride=2), nn.LayerNorm(8), nn.Linear(8, 2)
        self.register_buffer("prefix", torch.linspace(-1, 1, prefix * 8).reshape(1, prefix, 8))

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = self.norm(torch.cat([self.prefix.expand(len(x), -1, -1), tokens], 1))
        return self.head(tokens.square().mean(1))


@pytest.mark.parametrize(("height", "width"), [(12, 12), (12, 24)])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_tokens_are_laid_out_as_the_image_without_those_before_it(prefix, height, width, scrambled, pixels):
    network, x = scrambled(Tokens(prefix)), pixels(2, 3, height, width)
    given = {}
    handle = network.norm.register_forward_hook(lambda _m, _i, output: given.update(a=output))
    network(x)
    handle.remove()
    activation = given["a"][:, prefix:].detach()
    tokens = activation.shape[1] + prefix
    slope = 2 * activation * network.head.weight[1].detach() / tokens
    small = F.relu((slope.mean(1, keepdim=True) * activation).sum(2)).reshape(2, 1, height // 2, width // 2)
    expected = F.interpolate(small, size=(height, width), mode="bilinear")[:, 0]
    assert torch.allclose(grad_cam(network, x, 1, layer="norm").heatmap, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("tokens", "size", "grid"),
    [
        (196, (224, 224), (0, 14, 14)),
        (197, (224, 224), (1, 14, 14)),
        (198, (224, 224), (2, 14, 14)),
        (1374, (518, 518), (5, 37, 37)),
        (99, (112, 224), (1, 7, 14)),
    ],
)
def test_the_grid_of_tokens_is_found(tokens, size, grid):
    assert token_grid(tokens, size, "norm") == grid


def test_tokens_without_grid_are_explained():
    with pytest.raises(ValueError, match="layer 'norm' gives 220 tokens.*no grid.*224 x 224"):
        token_grid(220, (224, 224), "norm")
    with pytest.raises(ValueError, match="gives 1 tokens"):
        token_grid(1, (12, 24), "norm")


def test_a_map_with_channels_last_is_turned():
    output = torch.randn(2, 7, 7, 768)
    assert torch.equal(channels_first(output, (224, 224), "block"), output.permute(0, 3, 1, 2))
    for shape in [(2, 768, 7, 7), (2, 7, 7, 7), (2, 12, 12, 13), (2, 7, 768)]:
        size = (50,) if len(shape) == 3 else (224, 224)
        assert channels_first(torch.zeros(shape), size, "block").shape == shape
    with pytest.raises(ValueError, match=r"'head' has output \(2, 10\), which has no positions.*\(224, 224\)"):
        channels_first(torch.zeros(2, 10), (224, 224), "head")


class Squeezed(nn.Module):
    """Channels weighed by a convolution over their means, as in squeeze-and-excitation."""

    def __init__(self):
        super().__init__()
        self.wide, self.gate, self.relu = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.wide(x)
        return self.relu(x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid())


def test_the_default_layer_is_the_last_with_the_positions_of_the_last_convolution(residual, plain, pixels):
    x = pixels(2, 3, 13, 13)
    assert last_map(residual(), x) == "4", "the residual block, not its last convolution"
    assert last_map(plain(), x[..., :12, :12]) == "4", "its activation, not the pooling"
    rest = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 9, 1), nn.Flatten(), nn.Linear(9, 2)]
    squeezed = nn.Sequential(OrderedDict(block=Squeezed(), rest=nn.Sequential(*rest)))
    assert last_map(squeezed, x) == "block", "convolutions over means have no positions"


class Branch(nn.Module):
    """A sum with its input, written into the branch."""

    def __init__(self, in_place: bool):
        super().__init__()
        self.conv, self.rest, self.in_place = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), in_place

    def forward(self, x):
        out = self.rest(self.conv(x))
        if self.in_place:
            out += x
        else:
            out = out + x
        return out


def test_writing_in_place_does_not_hide_the_default_layer(residual, scrambled, pixels):
    network, x = residual(), pixels(2, 3, 13, 13)
    expected = grad_cam(network, x, 1).relevance
    for block in (network[3], network[4]):
        block.relu.inplace = True
    assert torch.equal(grad_cam(network, x, 1).relevance, expected)
    found = [
        grad_cam(scrambled(nn.Sequential(Branch(in_place), nn.Flatten(), nn.Linear(507, 2))), x, 1).relevance
        for in_place in (False, True)
    ]
    assert torch.equal(*found) and found[0].abs().max() > 0


def test_the_default_is_that_layer_and_others_differ(residual, pixels):
    network, x = residual(), pixels(2, 3, 13, 13)
    found = grad_cam(network, x, 1).relevance
    assert torch.equal(grad_cam(network, x, 1, layer="4").relevance, found)
    assert not torch.allclose(grad_cam(network, x, 1, layer="3").relevance, found)
    assert found.min() == 0


def test_wrong_layers_are_explained(residual, pixels, untouched):
    network, x = residual(), pixels(2, 3, 13, 13)
    untouched(network, lambda: grad_cam(network, x, layer="9"), ValueError, "'9' is no module")
    untouched(network, lambda: grad_cam(network, x, layer="8"), ValueError, "no positions")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 13 * 13, 2))
    untouched(flat, lambda: grad_cam(flat, x), ValueError, r"no convolution .*\(2, 3, 13, 13\).*layer='...'")


def test_captum_finds_the_same(residual, pixels):
    captum = pytest.importorskip("captum.attr")
    network, x, target = residual(), pixels(3, 3, 13, 13), torch.tensor([0, 2, 1])
    small = captum.LayerGradCam(network, network[4]).attribute(x, target, relu_attributions=True)
    expected = F.interpolate(small.detach(), size=(13, 13), mode="bilinear")[:, 0]
    assert torch.allclose(grad_cam(network, x, target).heatmap, expected, atol=1e-6)
