from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.attribution import flex_maps, lrp_flex

RULES = ["gradient_x_input", "zb"]


def margin(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, 0] - logits[:, 1:].logsumexp(1)


def smallest(logits: torch.Tensor) -> torch.Tensor:
    return logits.amin(1)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("input_rule", RULES)
def test_every_map_is_that_of_a_pass_of_its_own(input_rule, training, residual, pixels):
    network, x = residual().double().train(training), pixels(3, 3, 13, 13).double()
    network[7].eval()
    options = {"input_rule": input_rule, "layers": ["3", "4.norm1"], "epsilon": 0.1}
    found = flex_maps(network, x, [margin, smallest], **options)
    assert found.relevance.shape == (3, 2, 3, 13, 13) and found.relevances["3"].shape == (3, 2, 6, 6, 6)
    for number, explained in enumerate((margin, smallest)):
        relevance, logits, at_layers, activations = lrp_flex(network, x, explained, **options)
        assert torch.allclose(found.relevance[:, number], relevance, atol=1e-14)
        assert torch.allclose(found.logits, logits) and torch.allclose(found.activations["3"], activations["3"])
        for layer in options["layers"]:
            assert torch.allclose(found.relevances[layer][:, number], at_layers[layer], atol=1e-14)
    assert not any(tensor.requires_grad for tensor in (found.logits, found.relevance, found.relevances["3"]))


def test_one_function_may_explain_all_classes(residual, pixels):
    network, x = residual().double(), pixels(3, 3, 13, 13).double()
    found = flex_maps(network, x, lambda logits: logits)
    for target in range(4):
        assert torch.allclose(found.relevance[:, target], lrp_flex(network, x, target)[0], atol=1e-14)
    alone = flex_maps(network, x, margin)
    assert alone.relevance.shape == (3, 1, 3, 13, 13)
    assert torch.allclose(alone.relevance[:, 0], lrp_flex(network, x, margin)[0], atol=1e-14)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("input_rule", RULES)
def test_gradients_of_several_maps_add_up(input_rule, training, residual, pixels):
    network, x = residual().double().train(training), pixels(3, 3, 13, 13).double()
    network[7].eval()
    parameters = list(network.parameters())
    together = flex_maps(network, x, [margin, smallest], input_rule=input_rule, create_graph=True)
    found = torch.autograd.grad(
        together.relevance.square().sum(), parameters, materialize_grads=True, allow_unused=True
    )
    expected = [torch.zeros_like(parameter) for parameter in parameters]
    for explained in (margin, smallest):
        relevance = lrp_flex(network, x, explained, input_rule=input_rule, create_graph=True)[0]
        gradients = torch.autograd.grad(relevance.square().sum(), parameters, materialize_grads=True, allow_unused=True)
        expected = [one + other for one, other in zip(expected, gradients, strict=True)]
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("explained", "shape"),
    [
        (lambda logits: logits.sum(), r"\(\)"),
        ([lambda logits: logits], r"\(3, 4\)"),
        (lambda logits: logits[:2], r"\(2,\)"),
    ],
)
def test_explained_values_are_one_per_sample(explained, shape, residual, pixels):
    with pytest.raises(ValueError, match=rf"an explained value has shape {shape}; expected one per sample \[3\]"):
        flex_maps(residual(), pixels(3, 3, 13, 13), explained)


@pytest.mark.parametrize("input_rule", RULES)
def test_frozen_networks_are_explained_too(input_rule, residual, pixels):
    network, x = residual().double(), pixels(3, 3, 13, 13).double()
    options = {"input_rule": input_rule, "layers": ["0", "3"]}
    expected = lrp_flex(network, x, 1, **options)
    for frozen in (network[:3], network):
        frozen.requires_grad_(False)
        found = lrp_flex(network, x, 1, **options)
        assert torch.equal(found[0], expected[0])
        assert all(torch.equal(found[2][layer], expected[2][layer]) for layer in ("0", "3"))
        assert found[2]["0"].any()
        assert torch.equal(lrp_flex(network, x, 1, input_rule=input_rule)[0], expected[0])


def test_pixels_get_gradients_only_when_they_ask(residual, pixels):
    network, x = residual().double(), pixels(2, 3, 13, 13).double()
    inputs = []
    handle = network.register_forward_pre_hook(lambda _module, given: inputs.append(given[0]))
    lrp_flex(network, x, 0, create_graph=True)[0].sum().backward()
    handle.remove()
    assert not inputs[0].requires_grad and inputs[0].grad is None
    for input_rule in RULES:
        asking, direction = x.clone().requires_grad_(), torch.randn(x.shape, dtype=torch.float64)

        def loss(at: torch.Tensor, input_rule: str = input_rule) -> torch.Tensor:
            return lrp_flex(network, at, 0, create_graph=True, input_rule=input_rule)[0].square().sum()

        (gradient,) = torch.autograd.grad(loss(asking), asking)
        sides = [float(loss(x + step * direction).detach()) for step in (1e-7, -1e-7)]
        assert float((gradient * direction).sum()) == pytest.approx((sides[0] - sides[1]) / 2e-7, rel=1e-4)


class Reused(nn.Module):
    """A block whose one ReLU runs twice, or a ReLU for each place."""

    def __init__(self, separate: bool):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.second, self.third = (nn.ReLU(), nn.ReLU()) if separate else (self.relu, self.relu)
        self.linear = nn.Linear(4 * 64, 2)

    def forward(self, x):
        x = self.relu(self.norm1(self.conv1(x)))
        x = self.third(x + self.norm2(self.conv2(self.second(x))))
        return self.linear(x.flatten(1))


@pytest.mark.parametrize("training", [False, True])
def test_one_relu_used_many_times_is_as_good_as_many(training, scrambled, pixels):
    x = pixels(3, 3, 8, 8).double()
    found = []
    for separate in (True, False):
        network = scrambled(Reused(separate)).double().train(training)
        relevance = lrp_flex(network, x, 1, create_graph=True)[0]
        found.append([relevance, *torch.autograd.grad(relevance.square().sum(), list(network.parameters())[:-1])])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
