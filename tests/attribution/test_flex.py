from __future__ import annotations

import numpy as np
import pytest
import torch
from isnet_numbers import numbers, relative, residual_network, tiny_network
from torch import nn
from torch.nn import functional as F

from pipeline.attribution import attribute, lrp_flex


def relevance_of(model, x, target=None, **options) -> torch.Tensor:
    options = {"input_rule": "gradient_x_input"} | options
    return lrp_flex(model, x, target, **options)[0]


@pytest.mark.parametrize("which", ["plain", "residual"])
def test_without_epsilon_it_is_gradient_times_activation(which, request, pixels):
    network = request.getfixturevalue(which)().double()
    x = pixels(3, 3, 12, 12).double().requires_grad_()
    layer = "3"
    recorded = {}
    handle = network.get_submodule(layer).register_forward_hook(lambda _m, _i, output: recorded.update(a=output))
    logits = network(x)
    handle.remove()
    target = torch.tensor([0, 3, 1])
    gradients = torch.autograd.grad(logits[torch.arange(3), target].sum(), [x, recorded["a"]])
    found, found_logits, by_layer, activations = lrp_flex(
        network, x, target, epsilon=0, input_rule="gradient_x_input", layers=[layer]
    )
    assert torch.allclose(found, x * gradients[0], atol=1e-12)
    assert torch.allclose(by_layer[layer], recorded["a"] * gradients[1], atol=1e-12)
    assert torch.equal(activations[layer], recorded["a"]) and torch.equal(found_logits, logits)


@pytest.mark.parametrize("which", ["plain", "residual"])
def test_pixels_and_biases_share_the_whole_logit(which, request, pixels):
    """Euler: a ReLU network is homogeneous of degree 1 in pixels and biases together."""
    network = request.getfixturevalue(which)().double()
    for index in range(3):
        x = pixels(1, 3, 12, 12, seed=index).double()
        logit = network(x)[0, index].detach()
        of_biases = torch.zeros(())
        for module in network.modules():
            if getattr(module, "bias", None) is not None:
                (gradient,) = torch.autograd.grad(network(x)[0, index], module.bias)
                shift = module.bias
                if isinstance(module, nn.BatchNorm2d):  # running mean times scale is a bias as well
                    shift = shift - module.weight * module.running_mean / (module.running_var + module.eps).sqrt()
                of_biases = of_biases + (gradient * shift).sum().detach()
        total = relevance_of(network, x, index, epsilon=0).sum()
        assert float(total + of_biases) == pytest.approx(float(logit), abs=1e-10)
        assert abs(float(of_biases)) > 1e-3


ACTIVATIONS = {
    "ReLU": (nn.ReLU(), torch.relu),
    "in-place": (nn.ReLU(inplace=True), torch.relu),
    "F.relu": (F.relu, torch.relu),
    "torch.relu": (lambda z: torch.relu(input=z), torch.relu),
    "method": (lambda z: z.relu(), torch.relu),
    "relu_": (lambda z: (z * 1).relu_(), torch.relu),
    "ReLU6": (nn.ReLU6(), lambda z: z.clamp(0, 6)),
    "F.relu6": (F.relu6, lambda z: z.clamp(0, 6)),
    "Hardtanh": (nn.Hardtanh(0.0, 6.0), lambda z: z.clamp(0, 6)),
}


@pytest.mark.parametrize("epsilon", [1e-2, 0.5])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_epsilon_rule_by_hand_on_two_layers(name, epsilon, functional, scrambled, pixels):
    activation, reference = ACTIVATIONS[name]
    module = activation if isinstance(activation, nn.Module) else functional(activation)
    network = scrambled(nn.Sequential(nn.Linear(6, 8), module, nn.Linear(8, 3))).double()
    network[0].weight.data *= 6
    x = pixels(5, 6).double() * 2
    z = F.linear(x, network[0].weight, network[0].bias)
    a = reference(z)
    of_hidden = a * network[2].weight[1]
    expected = x * torch.einsum(
        "nj,ji->ni", of_hidden / (z + torch.where(z >= 0, epsilon, -epsilon)), network[0].weight
    )
    _, _, by_layer, _ = lrp_flex(network, x, 1, input_rule="gradient_x_input", epsilon=epsilon, layers=["1"])
    assert torch.allclose(by_layer["1"], of_hidden, atol=1e-12)
    assert torch.allclose(relevance_of(network, x, 1, epsilon=epsilon), expected, atol=1e-6)
    assert (z > 6).any() and (z < 0).any()


class Mixed(nn.Module):
    """Convolution-BatchNorm-ReLU, a block with a reused and a functional ReLU, a residual sum."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(2, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4), nn.ReLU()
        self.inner, self.after = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.again = nn.ReLU()
        self.last, self.linear = nn.Conv2d(4, 4, 1), nn.Linear(16, 3)

    def forward(self, x):
        x = self.relu(self.norm(self.conv(x)))
        x = x + self.after(self.inner(self.again(self.inner(x))))
        x = F.relu(self.last(self.again(x)))
        return self.linear(F.max_pool2d(x, 2).flatten(1))


@pytest.fixture
def mixed(scrambled):
    def make() -> nn.Module:
        network = scrambled(Mixed()).double()
        network.norm.running_mean.zero_()
        return network

    return make


@pytest.mark.parametrize("input_rule", ["gradient_x_input", "zb"])
def test_the_gradient_of_a_loss_on_relevance_agrees_with_finite_differences(input_rule, mixed, pixels):
    network, x = mixed(), pixels(2, 2, 11, 11).double()
    weights = torch.randn(2, 2, 11, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss(create_graph: bool = False) -> torch.Tensor:
        found, _, by_layer, _ = lrp_flex(
            network, x, 1, input_rule=input_rule, epsilon=0.1, layers=["after"], create_graph=create_graph
        )
        return (found * weights).sum() + found.square().sum() + by_layer["after"].square().sum()

    loss(create_graph=True).backward()
    generator = torch.Generator().manual_seed(2)
    checked = 0
    for name, parameter in network.named_parameters():
        if input_rule == "zb" and name == "norm.bias":
            continue  # the rule holds it constant by design
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values, step = parameter.data.clone(), 1e-6
        sides = []
        for sign in (1, -1):
            parameter.data = values + sign * step * direction
            sides.append(float(loss()))
        parameter.data = values
        slope = (sides[0] - sides[1]) / (2 * step)
        gradient = 0.0 if parameter.grad is None else float((parameter.grad * direction).sum())
        assert gradient == pytest.approx(slope, rel=1e-5, abs=1e-6), name
        checked += abs(slope) > 1e-3
    assert checked >= 7


@pytest.mark.parametrize("input_rule", ["gradient_x_input", "zb"])
def test_the_logits_that_come_with_relevance_have_ordinary_gradients(input_rule, mixed, pixels):
    network, x, y = mixed(), pixels(3, 2, 11, 11).double(), torch.tensor([0, 1, 2])
    expected = torch.autograd.grad(F.cross_entropy(network(x), y), list(network.parameters()))
    relevance, logits, _, _ = lrp_flex(network, x, y, input_rule=input_rule, create_graph=True)
    found = torch.autograd.grad(F.cross_entropy(logits, y), list(network.parameters()), retain_graph=True)
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one, other, atol=1e-12)
    both = torch.autograd.grad(F.cross_entropy(logits, y) + relevance.square().sum(), list(network.parameters()))
    assert not torch.allclose(both[0], found[0]), "and relevance adds its own"


def test_relu6_has_ordinary_gradients_too(scrambled, pixels):
    network = scrambled(nn.Sequential(nn.Linear(6, 8), nn.ReLU6(), nn.Linear(8, 3))).double()
    network[0].weight.data *= 6
    x = pixels(5, 6).double()
    expected = torch.autograd.grad(network(x).square().sum(), list(network.parameters()))
    logits = lrp_flex(network, x, 0, input_rule="gradient_x_input", create_graph=True)[1]
    found = torch.autograd.grad(logits.square().sum(), list(network.parameters()))
    assert all(torch.allclose(one, other) for one, other in zip(expected, found, strict=True))


@pytest.mark.parametrize("input_rule", ["gradient_x_input", "zb"])
def test_a_map_does_not_depend_on_the_rest_of_the_batch(input_rule, residual, pixels):
    network, x = residual().double(), pixels(5, 3, 13, 13).double()
    target = torch.tensor([1, 0, 2, 3, 1])
    alone = relevance_of(network, x[:1], target[:1], input_rule=input_rule)
    among = relevance_of(network, x, target, input_rule=input_rule)
    others = relevance_of(network, torch.cat([x[:1], 1 - x[1:3]]), target[[0, 3, 3]], input_rule=input_rule)
    assert torch.allclose(alone[0], among[0], atol=1e-12) and torch.allclose(alone[0], others[0], atol=1e-12)


def test_a_function_of_the_logits_can_be_explained(plain, pixels):
    network, x = plain().double(), pixels(3, 3, 12, 12).double()
    margin = relevance_of(network, x, lambda logits: logits[:, 0] - 2 * logits[:, 3])
    parts = relevance_of(network, x, 0) - 2 * relevance_of(network, x, 3)
    assert torch.allclose(margin, parts, atol=1e-12)
    log_odds = relevance_of(network, x, lambda logits: logits[:, 0] - logits[:, 1:].logsumexp(1))
    p = network(x)[:, 1:].softmax(1)
    weights = torch.cat([torch.ones(3, 1, dtype=torch.float64), -p], 1)
    assert torch.allclose(log_odds, relevance_of(network, x, weights), atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.GELU(), "gelu"),
        (nn.SiLU(), "silu"),
        (nn.LeakyReLU(), "leaky_relu"),
        (nn.Sigmoid(), "sigmoid"),
        (nn.Hardtanh(), "hardtanh"),
        (nn.GroupNorm(2, 4), "group_norm"),
    ],
)
def test_a_network_beyond_relu_is_refused_by_name(layer, name, scrambled, pixels, untouched):
    network = scrambled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), layer, nn.Flatten(), nn.Linear(144, 2)))
    x = pixels(2, 3, 8, 8)
    untouched(network, lambda: lrp_flex(network, x), ValueError, f"LRP-Flex has no rule for {name}: ")


def test_an_unknown_input_rule_is_refused(plain, pixels):
    with pytest.raises(ValueError, match="input_rule 'z_b' is unknown; allowed are zb, gradient_x_input"):
        lrp_flex(plain(), pixels(2, 3, 12, 12), input_rule="z_b")


def test_without_create_graph_nothing_of_the_graph_comes_out(residual, pixels, untouched):
    network, x = residual(), pixels(2, 3, 13, 13)
    untouched(network, lambda: lrp_flex(network, x, 0, create_graph=True, layers=["3"]))
    relevance, logits, by_layer, activations = lrp_flex(network, x, 0, layers=["3"])
    assert not any(tensor.requires_grad for tensor in (relevance, logits, by_layer["3"], activations["3"], x))
    found = attribute(network, x, 0, composite="lrp_flex", layers=["3"], epsilon=1e-2)
    assert torch.equal(found.relevance, relevance) and torch.equal(found.relevances["3"], by_layer["3"])


def close(found: torch.Tensor, expected: np.ndarray) -> bool:
    return relative(found, expected) <= 1e-5


@pytest.mark.real_data
def test_residual_network_agrees_with_the_reference_numbers():
    stored = numbers("resnet18.npz")
    network, x = residual_network(), torch.from_numpy(stored["x"])
    tag = "flex_multi_e1e-2_Zb"
    for target in range(4):
        found, logits, by_layer, _ = lrp_flex(network, x, target, epsilon=1e-2, layers=["layer1", "layer4"])
        assert close(logits, stored["logits"])
        assert close(found, stored[tag][:, target])
        for layer, relevance in by_layer.items():
            assert close(relevance.sum((1, 2, 3)), stored[f"{tag}/hlp/{layer}/sum"][:, target])
            assert close(relevance.abs().sum((1, 2, 3)), stored[f"{tag}/hlp/{layer}/abssum"][:, target])
        plain = relevance_of(network, x, target)
        assert close(plain.abs().sum((1, 2, 3)), stored["flex_multi_e1e-2_noZb/abssum"][:, target])


def eta(stabilizer: float):
    """The margin of the class with the lowest logit, as ISNet's Selective explains it."""

    def explained(logits: torch.Tensor) -> torch.Tensor:
        p = logits.softmax(1).gather(1, logits.argmin(1, keepdim=True))[:, 0]
        return torch.log(p + stabilizer) - torch.log(1 - p + stabilizer)

    return explained


@pytest.mark.real_data
def test_small_network_agrees_with_the_reference_numbers():
    stored = numbers("tiny_cnn.npz")
    network = tiny_network()
    x = torch.from_numpy(stored["x"])
    for target in range(5):
        assert close(relevance_of(network, x, target, input_rule="zb"), stored["flex_multi_e1e-2_Zb"][:, target])
        assert close(relevance_of(network, x, target), stored["flex_multi_e1e-2_noZb"][:, target])
        assert close(relevance_of(network, x, target, epsilon=0), stored["flex_multi_e0_noZb"][:, target])
    for stabilizer in ("1e-2", "1e-7"):
        found = relevance_of(network, x, eta(float(stabilizer)), input_rule="zb")
        assert close(found, stored[f"flex_selective_eps{stabilizer}_e1e-2_Zb"][:, 0])
    found = relevance_of(network, x, torch.tensor([3, 1]), input_rule="zb")
    assert close(found, stored["flex_labels_3_1_e1e-2_Zb"][:, 0])
