"""Contextual decomposition of the logits into a region's part and the rest."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from pipeline.attribution.decomposition import contextual_decomposition
from pipeline.models.build import Normalize
from pipeline.models.small_cnn import small_cnn


def torchvision_network(name: str, **parameters) -> nn.Module:
    return torchvision.models.get_model(name, weights=None, num_classes=4, **parameters)


NETWORKS = {
    "small_cnn": lambda: small_cnn(4, 3),
    "normalized": lambda: nn.Sequential(Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), small_cnn(4, 3)),
    "vgg": lambda: torchvision.models.VGG(torchvision.models.vgg.make_layers([8, "M", 16, "M", 512]), 4),
    "resnet18": lambda: torchvision_network("resnet18"),
    "densenet": lambda: torchvision.models.DenseNet(8, (2, 2), 16, num_classes=4),
    "mobilenet_v2": lambda: torchvision_network("mobilenet_v2", width_mult=0.25),
    "shufflenet": lambda: torchvision_network("shufflenet_v2_x0_5"),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    """A network whose BatchNorm statistics, scales and shifts are no defaults, and the pixels it was watched with."""
    torch.manual_seed(0)
    network, x = NETWORKS[request.param](), torch.rand(2, 3, 40, 40)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.momentum = None
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        network.train()(torch.rand(8, 3, 40, 40))
    return network.eval(), x


def test_logits_stay_and_the_parts_add_up_to_them(network):
    network, x = network
    mask = (torch.rand(2, 1, 40, 40) > 0.5).float()
    found = contextual_decomposition(network, x, mask)
    assert torch.equal(found.logits, network(x))
    torch.testing.assert_close(found.relevant + found.irrelevant, found.logits)
    assert (found.relevant.abs() > 1e-6).all() and (found.irrelevant.abs() > 1e-6).all()


def test_all_is_relevant_under_a_mask_of_ones_and_nothing_under_one_of_zeros(network):
    network, x = network
    x[:, :, :20] = 0  # black pixels are pixels of the region as well
    ones, zeros = (contextual_decomposition(network, x, mask(2, 1, 40, 40)) for mask in (torch.ones, torch.zeros))
    torch.testing.assert_close(ones.relevant, ones.logits, rtol=1e-3, atol=1e-4)
    assert not zeros.relevant.any()


def test_samples_do_not_mix(network):
    network, x = network
    mask = (torch.rand(2, 1, 40, 40) > 0.5).float()
    both = contextual_decomposition(network, x, mask).relevant
    for row in range(2):
        alone = contextual_decomposition(network, x[row : row + 1], mask[row : row + 1]).relevant
        torch.testing.assert_close(alone[0], both[row], rtol=1e-3, atol=1e-5)


def test_a_linear_network_is_the_sum_over_the_region_plus_its_share_of_the_biases():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(24, 3)).double()
    x, mask = torch.randn(2, 2, 4, 3).double(), torch.rand(2, 1, 4, 3).double()
    found = contextual_decomposition(network, x, mask).relevant
    expected = (mask * x).flatten(1) @ network[1].weight.T + mask.mean((1, 2, 3))[:, None] * network[1].bias
    torch.testing.assert_close(found, expected)


def test_a_constant_belongs_to_the_region_where_its_place_lies():
    """Without biases elsewhere, a 1 x 1 convolution and the sum over positions count the masked positions."""
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(6, 1, bias=False)).double()
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    mask = torch.tensor([[[[1.0, 0.5, 0.0], [0.0, 0.0, 1.0]]]]).double()
    found = contextual_decomposition(network, torch.zeros(1, 1, 2, 3).double(), mask)
    assert found.relevant.item() == pytest.approx(2.5) and found.logits.item() == pytest.approx(6)


def run(function, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the relevant part of a function of `[N, C, H, W]`, read off position by position."""

    class Network(nn.Module):
        def forward(self, x):
            return function(x).flatten(1)

    return contextual_decomposition(Network(), x, mask).relevant


@pytest.fixture
def pixels():
    return torch.linspace(-2, 3, 48).double().mul(7).sin().view(1, 3, 4, 4)


@pytest.fixture
def mask():
    return torch.linspace(0, 5, 16).double().mul(3).cos().gt(0).double().view(1, 1, 4, 4)


def test_maxima_take_both_parts_of_the_winner(pixels, mask):
    found = run(lambda x: F.max_pool2d(x, 2), pixels, mask).view(3, 2, 2)
    for channel in range(3):
        for row in range(2):
            for column in range(2):
                window = slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2)
                winner = pixels[0, channel][window].flatten().argmax()
                part = (pixels * mask)[0, channel][window].flatten()[winner]
                assert found[channel, row, column] == part


SHAPES = {
    "relu": (F.relu, lambda r: r.relu()),
    "in place": (lambda x: F.relu(x + x, inplace=True), lambda r: (2 * r).relu()),
    "silu": (F.silu, F.silu),
    "average": (lambda x: F.avg_pool2d(x, 2), lambda r: F.avg_pool2d(r, 2)),
    "mean": (lambda x: x.mean((2, 3)), lambda r: r.mean((2, 3))),
    "sum": (lambda x: x[:, :2] - x[:, 1:], lambda r: r[:, :2] - r[:, 1:]),
    "scaled": (lambda x: 3 * x / 2, lambda r: 1.5 * r),
    "concatenation": (
        lambda x: torch.cat([x.relu(), torch.ones_like(x), x], 1),
        lambda r: torch.cat([r.relu(), 0 * r, r], 1),
    ),
    "padding": (lambda x: F.pad(x, (1, 0), value=5.0), lambda r: F.pad(r, (1, 0))),
    "permutation": (lambda x: x.permute(0, 2, 3, 1).chunk(2, 1)[1], lambda r: r.permute(0, 2, 3, 1).chunk(2, 1)[1]),
    "interpolation": (lambda x: F.interpolate(x, scale_factor=2), lambda r: F.interpolate(r, scale_factor=2)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_single_operations(name, pixels, mask):
    function, expected = SHAPES[name]
    torch.testing.assert_close(run(function, pixels, mask), expected(pixels * mask).flatten(1))


CONSTANTS = {
    "added": (lambda x: 1.5 + x, 1.5, lambda r: r),
    "subtracted": (lambda x: x - torch.full((3, 1, 1), 0.5).double(), -0.5, lambda r: r),
    "subtracted from": (lambda x: 2 - x, 2.0, lambda r: -r),
    "softplus": (F.softplus, torch.tensor(0.0).exp().add(1).log().item(), lambda r: F.softplus(r) - 0.6931471805599453),
    "clamp": (lambda x: x.clamp(0.25, 0.5), 0.25, lambda r: r.clamp(0.25, 0.5) - 0.25),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_are_shared_as_the_mask_says(name, pixels, mask):
    function, constant, expected = CONSTANTS[name]
    part = expected(pixels * mask) + constant * mask
    torch.testing.assert_close(run(function, pixels, mask), part.flatten(1), rtol=1e-6, atol=1e-6)


def test_a_residual_sum_in_place_leaves_the_branch_alone(pixels, mask):
    def residual(x):
        branch = x.relu()
        branch += x
        return torch.cat([branch, x], 1)

    expected = torch.cat([(pixels * mask).relu() + pixels * mask, pixels * mask], 1).flatten(1)
    torch.testing.assert_close(run(residual, pixels, mask), expected)


def test_dropout_drops_the_same_of_both_parts():
    network = nn.Sequential(nn.Dropout(0.5), nn.Flatten())
    x = torch.ones(1, 1, 20, 20)
    torch.manual_seed(0)
    found = contextual_decomposition(network, x, torch.full((1, 1, 20, 20), 0.25))
    torch.manual_seed(0)
    assert torch.equal(found.logits, network(x))
    assert torch.equal(found.relevant, 0.25 * found.logits)


def test_signals_are_decomposed_as_images_are():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(20, 3)
    ).eval()
    x = torch.randn(2, 2, 12)
    ones, part = (contextual_decomposition(network, x, mask) for mask in (torch.ones(2, 1, 12), torch.rand(2, 1, 12)))
    torch.testing.assert_close(ones.relevant, network(x))
    assert torch.equal(part.logits, network(x)) and not torch.allclose(part.relevant, part.logits)


REFUSED = {
    "mul of two values": lambda x: x * x.sigmoid(),
    "div by a value": lambda x: torch.div(torch.ones(4, 4).double(), x),
    "div with rounding": lambda x: torch.div(x, 2, rounding_mode="floor"),
    "__r": lambda x: 1 / x,
    "layer_norm": lambda x: F.layer_norm(x, (4,)),
    "softmax": lambda x: x.softmax(1),
    "batch_norm with statistics of the batch": lambda x: F.batch_norm(x, None, None, training=True),
    "conv2d with weights that depend on the input": lambda x: F.conv2d(x, x),
    "matmul": lambda x: x @ x,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_by_its_name(name, pixels, mask):
    with pytest.raises(ValueError, match=f"no rule for .*{name}"):
        run(REFUSED[name], pixels, mask)


def test_a_network_whose_logits_do_not_come_from_the_pixels_is_refused(pixels, mask):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 3)

    with pytest.raises(ValueError, match="cannot see how the logits come from the input"):
        contextual_decomposition(Constant(), pixels, mask)


def test_nothing_stays_on_the_model_or_the_pixels(pixels, mask):
    x = pixels.clone()
    network = nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True)).double()
    contextual_decomposition(network, x, mask)
    assert x.equal(pixels) and not any(module._forward_hooks for module in network.modules())
