from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.attribution import lrp_flex

PLAIN = {"input_rule": "gradient_x_input"}
BEYOND_RELU = {
    "gelu": (nn.GELU(), F.gelu),
    "silu": (nn.SiLU(), F.silu),
    "silu in place": (nn.SiLU(inplace=True), lambda z: F.silu(z, inplace=True)),
    "leaky_relu": (nn.LeakyReLU(), F.leaky_relu),
    "leaky_relu_": (nn.LeakyReLU(inplace=True), lambda z: F.leaky_relu_(z)),
    "elu": (nn.ELU(), F.elu),
    "selu": (nn.SELU(), torch.selu),
    "celu": (nn.CELU(), torch.celu),
    "mish": (nn.Mish(), F.mish),
    "hardswish": (nn.Hardswish(), F.hardswish),
    "softplus": (nn.Softplus(), F.softplus),
    "threshold": (nn.Threshold(0.1, 0.0), lambda z: torch.threshold(z, 0.1, 0.0)),
    "prelu": (nn.PReLU(), lambda z: F.prelu(z, torch.tensor([0.1]))),
    "tanh": (nn.Tanh(), lambda z: z.tanh()),
    "tanh in place": (nn.Tanh(), lambda z: z.tanh_()),
    "sigmoid": (nn.Sigmoid(), lambda z: z.sigmoid()),
    "expit": (nn.Sigmoid(), torch.special.expit),
    "hardtanh": (nn.Hardtanh(), lambda z: F.hardtanh(z, -1.0, 1.0)),
    "softsign": (nn.Softsign(), F.softsign),
    "logsigmoid": (nn.LogSigmoid(), F.logsigmoid),
    "hardshrink": (nn.Hardshrink(), F.hardshrink),
    "softshrink": (nn.Softshrink(), F.softshrink),
    "tanhshrink": (nn.Tanhshrink(), F.tanhshrink),
}


@pytest.mark.parametrize("form", [0, 1])
@pytest.mark.parametrize("name", BEYOND_RELU)
def test_activations_beyond_relu_are_refused_as_module_and_as_function(name, form, functional, scrambled, pixels):
    activation = BEYOND_RELU[name][form]
    module = activation if isinstance(activation, nn.Module) else functional(activation)
    network = scrambled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), module, nn.Flatten()))
    with pytest.raises(ValueError, match="LRP-Flex has no rule for .*: it is derived for ReLU and ReLU6 networks"):
        lrp_flex(network, pixels(2, 3, 8, 8), 0)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "stride": 2},
        {"kernel_size": (2, 3), "stride": (3, 2), "padding": (0, 1)},
        {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 2},
        {"kernel_size": 3, "dilation": (2, 1), "bias": False},
        {"kernel_size": 1, "stride": 3},
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    ],
)
@pytest.mark.parametrize("side", [11, 12, (13, 16)])
def test_without_epsilon_convolutions_of_any_geometry_give_gradient_times_input(side, options, scrambled, pixels):
    height, width = (side, side) if isinstance(side, int) else side
    body = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 6, **options), nn.ReLU())
    network = scrambled(nn.Sequential(*body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 2))).double()
    x = pixels(2, 2, height, width).double().requires_grad_()
    expected = x * torch.autograd.grad(network(x)[:, 1].sum(), x)[0]
    assert torch.allclose(lrp_flex(network, x, 1, epsilon=0, **PLAIN)[0], expected, atol=1e-13)
    assert expected.abs().max() > 1e-4


POOLS = {
    "max": nn.MaxPool2d(3, 2, 1),
    "max of pairs": nn.MaxPool2d(2),
    "max, ceil, dilated": nn.MaxPool2d((2, 3), (3, 2), dilation=(2, 1), ceil_mode=True),
    "torch.max_pool2d": lambda z: torch.max_pool2d(z, 2),
    "max with winners": lambda z: F.max_pool2d(z, 2, return_indices=True)[0],
    "average": nn.AvgPool2d(2),
    "average, padded": nn.AvgPool2d(3, (2, 1), 1, count_include_pad=False),
    "average, ceil": nn.AvgPool2d(3, 2, ceil_mode=True, divisor_override=5),
    "adaptive": nn.AdaptiveAvgPool2d((3, 2)),
    "adaptive, one axis": nn.AdaptiveAvgPool2d((None, 1)),
    "adaptive, all": nn.AdaptiveAvgPool2d(1),
    "adaptive max": nn.AdaptiveMaxPool2d(3),
    "mean": lambda z: z.mean((2, 3), keepdim=True),
}


@pytest.mark.parametrize("name", POOLS)
def test_pooling_of_any_geometry_sends_relevance_where_gradients_go(name, functional, scrambled, pixels):
    pool = POOLS[name] if isinstance(POOLS[name], nn.Module) else functional(POOLS[name])
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), pool, nn.Conv2d(4, 3, 1), nn.ReLU(), nn.Flatten())
    network, x = scrambled(network).double(), pixels(2, 2, 11, 12).double().requires_grad_()
    parameters = list(network.parameters())
    weights = torch.linspace(-1, 2, network(x).shape[1]).double()
    expected = x * torch.autograd.grad(network(x) @ weights, x, torch.ones(2).double(), create_graph=True)[0]
    found = lrp_flex(network, x, lambda out: out @ weights, epsilon=0, create_graph=True, **PLAIN)[0]
    assert torch.allclose(found, expected, atol=1e-13) and expected.abs().max() > 1e-4
    gradients = [torch.autograd.grad(each.square().sum(), [*parameters, x], allow_unused=True, materialize_grads=True)
                 for each in (found, expected)]  # fmt: skip
    assert all(torch.allclose(one, other, atol=1e-12) for one, other in zip(*gradients, strict=True))


def test_signals_and_volumes_have_convolutions_too(scrambled, pixels):
    for network, x in (
        (nn.Sequential(nn.Conv1d(2, 3, 3, stride=2), nn.BatchNorm1d(3), nn.ReLU(), nn.Flatten()), pixels(3, 2, 9)),
        (nn.Sequential(nn.Conv3d(2, 3, 3), nn.BatchNorm3d(3), nn.ReLU(), nn.Flatten()), pixels(3, 2, 4, 4, 4)),
    ):
        network, x = scrambled(network).double(), x.double().requires_grad_()
        expected = x * torch.autograd.grad(network(x)[:, 0].sum(), x)[0]
        assert torch.allclose(lrp_flex(network, x, 0, epsilon=0, **PLAIN)[0], expected, atol=1e-13)


def test_overlapping_maxima_lose_nothing(scrambled, pixels):
    """A pixel that wins in several windows gets the relevance of all."""
    network = scrambled(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.MaxPool2d(3, 1, 1), nn.Conv2d(6, 4, 3, bias=False), nn.ReLU(),
            nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(64, 2, bias=False),
        )
    ).double()  # fmt: skip
    x = pixels(3, 3, 11, 11).double()
    relevance, logits, at_layers, _ = lrp_flex(network, x, 1, epsilon=0, layers=["1", "2", "4"], **PLAIN)
    for each in (relevance, *at_layers.values()):
        assert torch.allclose(each.flatten(1).sum(1), logits[:, 1], atol=1e-12)
    assert logits[:, 1].abs().min() > 1e-2


class InPlace(nn.Module):
    def __init__(self, uses_again: bool, part: bool, function):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.uses_again, self.part, self.function = uses_again, part, function

    def forward(self, x):
        z = self.conv(x)
        a = self.function(z[:, :2] if self.part else z)
        a = torch.cat([a, a], 1) if self.part else a
        return self.linear((a + z if self.uses_again else a).mean((2, 3)))


WRITES = {
    "module": nn.ReLU(inplace=True),
    "function": lambda z: F.relu(z, inplace=True),
    "relu_": torch.relu_,
    "method": lambda z: z.relu_(),
    "relu6": nn.ReLU6(inplace=True),
    "F.relu6": lambda z: F.relu6(z, True),
}


@pytest.mark.parametrize("part", [False, True])
@pytest.mark.parametrize("name", WRITES)
def test_what_an_activation_writes_over_must_not_be_used_again(name, part, scrambled, pixels):
    x = pixels(2, 3, 6, 6)
    harmless = scrambled(InPlace(False, part, WRITES[name]))
    found, logits, _, _ = lrp_flex(harmless, x, 0, **PLAIN)
    assert torch.allclose(logits, harmless(x), atol=1e-6) and found.any()
    with pytest.raises(ValueError, match="lets a ReLU write over it and uses it again"):
        lrp_flex(scrambled(InPlace(True, part, WRITES[name])), x, 0, **PLAIN)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("input_rule", ["gradient_x_input", "zb"])
def test_autocast_does_not_reach_relevance(input_rule, dtype, normalized, pixels):
    network, x = normalized(), pixels(2, 3, 13, 13)

    def run() -> tuple[torch.Tensor, ...]:
        relevance, logits, _, _ = lrp_flex(network, x, 1, input_rule=input_rule, create_graph=True)
        return relevance, logits

    expected = run()
    with torch.autocast("cpu", dtype):
        found = run()
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)
    parameters = list(network.parameters())
    gradients = [
        torch.autograd.grad(relevance.square().sum() + logits.sum(), parameters)
        for relevance, logits in (found, expected)
    ]
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_half_precision_is_refused(normalized, pixels):
    with pytest.raises(ValueError, match="for which bfloat16 is too coarse"):
        lrp_flex(copy.deepcopy(normalized()).bfloat16(), pixels(2, 3, 13, 13).bfloat16(), 0)
